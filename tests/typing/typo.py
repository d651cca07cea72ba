"""Must not pass a type check: there is no such name."""

from asimov_sync import Tsak

print(Tsak)
