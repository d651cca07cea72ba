"""Must not pass a type check: the imported name does not exist."""

from asimov_sync import Tsak

print(Tsak)
