"""moto's server with an SQS that several consumers may use at once; run as a script, with moto.server's arguments.

moto 5.2 answers every request in a thread of its own and rebuilds a queue's list of messages when one is deleted,
without a lock (``Queue.delete_message`` in moto/sqs/models.py): two deletes at once bring a message back, hidden until
its visibility timeout is over, and a message that is sent during a delete may be lost. SQS does neither.
"""

from __future__ import annotations

import time
from typing import Any

from moto.server import main
from moto.sqs.models import Queue, SQSBackend

_delete_message = Queue.delete_message
_receive_message = SQSBackend.receive_message
_change_message_visibility = SQSBackend.change_message_visibility


def _delete(self: Any, receipt_handle: str) -> None:
    with self._messages_lock:
        _delete_message(self, receipt_handle)


def _receive(
    self: Any,
    queue_name: str,
    count: int,
    wait_seconds_timeout: int,
    visibility_timeout: int,
    *args: Any,
    **kwargs: Any,
) -> Any:
    queue = self.get_queue(queue_name)
    deadline = time.monotonic() + wait_seconds_timeout
    while True:
        with queue._messages_lock:
            result = _receive_message(self, queue_name, count, 0, visibility_timeout, *args, **kwargs)
        left = deadline - time.monotonic()
        if result or left <= 0:
            return result
        # What becomes visible again wakes nobody, what is sent does.
        queue.wait_for_messages(min(left, 0.2))


def _change(self: Any, queue_name: str, *args: Any, **kwargs: Any) -> None:
    with self.get_queue(queue_name)._messages_lock:
        _change_message_visibility(self, queue_name, *args, **kwargs)


Queue.delete_message = _delete  # type: ignore[method-assign]
SQSBackend.receive_message = _receive  # type: ignore[method-assign]
SQSBackend.change_message_visibility = _change  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
