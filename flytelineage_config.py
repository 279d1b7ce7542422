"""Configuration of flytelineage: an example. Every line is a comment, so all defaults hold until you change one.

It is read from the working directory, or from where --config_file=FILE says; the command line wins over it. What holds
in the end, secrets hidden: flytelineage --show-config. Every option there is: flytelineage --help-all, and
flytelineage --generate-config --config_file=NEW.py writes all of them into a file like this one.
"""

c = get_config()  # type: ignore[name-defined]  # noqa: F821  (given by flytelineage)

# --- Where events come from -------------------------------------------------------------------------------------------

# Name or URL of the SQS queue that FlyteAdmin's events reach.
# c.FlyteLineage.sqs_queue = "flyte-events"

# Its region. Without it: the one in the queue's URL, else the AWS chain's, else us-east-1.
# c.FlyteLineage.aws_region = "eu-west-1"

# An emulator, or a VPC end point.
# c.SQSSource.endpoint_url = "http://localhost:4566"

# Threads that receive; more when the queue is far away.
# c.SQSSource.receivers = 4

# Name of this Flyte, where several feed one catalog. Choose it before the first event: it is part of every key.
# c.FlyteLineage.instance = "production"

# --- Where events and the catalog are kept ----------------------------------------------------------------------------

# A file on a local disk.
# c.Inbox.url = "sqlite:////var/lib/flytelineage/flytelineage.db"

# --- What may be read: literal maps and the footers of data files -----------------------------------------------------

# Only below these places; without it everything that the credentials allow.
# c.Storage.allowed_prefixes = ["s3://my-flyte-bucket", "s3://lake/gold"]

# An S3 compatible store.
# c.Storage.endpoint_url = "http://minio:9000"

# --- When lineage is derived, and where it is sent --------------------------------------------------------------------

# Seconds that an ended execution waits for late events.
# c.WorkflowEvents.settle_seconds = 30.0

# Catalogs besides our own.
# c.WorkflowEvents.targets = ["file"]
# c.FileTarget.path = "/var/lib/flytelineage/lineage.jsonl"

# Derive, but hold back what would be sent.
# c.WorkflowEvents.emit = False

# --- The process ------------------------------------------------------------------------------------------------------

# Seconds from SIGTERM to the exit; Kubernetes kills after 30.
# c.FlyteLineage.shutdown_timeout = 25.0

# c.FlyteLineage.log_level = "DEBUG"
# c.FlyteLineage.log_format = "%(asctime)s %(levelname)s %(action)s %(name)s: %(message)s"
