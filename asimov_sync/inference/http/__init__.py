"""HTTP: one request and its response, over requests, with time-outs and cancellation that always free the caller."""
