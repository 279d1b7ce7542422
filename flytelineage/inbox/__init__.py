"""The durable store: events as received, their executions, dead letters; and the tables of the catalog."""
