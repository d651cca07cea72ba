"""The Celery app of the tests. Workers import it before they fork."""

import os

from celery import Celery

from asimov_sync.integrations.celery import register_tasks

from .queue_flows import SERVER, scheduler

VISIBILITY_TIMEOUT = 5
"""The seconds after which the message of a lost worker is delivered again."""

EVERY = 30.0
"""The seconds after which a message of the periodic task expires."""

app = Celery("tests", broker=os.environ[SERVER], backend=os.environ[SERVER])
app.conf.worker_prefetch_multiplier = 1
app.conf.broker_connection_retry_on_startup = True
app.conf.result_extended = True  # results have the number of retries
app.conf.broker_transport_options = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
tasks = register_tasks(app, scheduler, every=EVERY, default_retry_delay=0.2)
