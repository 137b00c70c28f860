"""Collections on a Qdrant server or cluster: the same calls as those of a local one.

Start at `collection.py`: each call is checked, its filter translated (`filters.py`), and asked of the server
(`server.py`) by `writing.py`, `searching.py` or `listing.py`. `points.py` says how documents lie there, `settings.py`
which settings have a counterpart. It may import what lies below `bqstore.collection`, and qdrant-client in
`library.py` alone.
"""

from .address import is_remote
from .collection import RemoteCollection
from .opening import open_remote
from .settings import NO_COUNTERPART

__all__ = ["NO_COUNTERPART", "RemoteCollection", "is_remote", "open_remote"]
