"""A site with the page of runs, for gunicorn. ASIMOV_TEST_RUNS is the file with the runs."""

import os

from asimov_sync import RunStore, SQLiteCache
from asimov_sync.web import runs_app

store = RunStore(SQLiteCache(os.environ["ASIMOV_TEST_RUNS"], synchronous="normal"))
app = runs_app(store, authorize=lambda environ: "ann", read_only=False)
