"""The kernels of a build talk to it encrypted, where Jupyter can: otherwise each of them warns that it does not.

Jupyter's kernels listen on ports of this machine. Newer ones warn on stderr that everything passes there in plain text,
unless who starts them hands out keys. Sphinx starts them through nbclient, which has no setting for it, and takes
`jupyter_client.AsyncKernelManager` when a notebook begins: here stands one that hands out keys.
"""

from __future__ import annotations

import jupyter_client
from sphinx.application import Sphinx
from traitlets import default


class EncryptedKernelManager(jupyter_client.AsyncKernelManager):
    """A manager of kernels that hands out keys to those kernels that say that they can use them."""

    @default("transport_encryption")
    def _keys_where_known(self) -> str:
        return "auto"


def setup(app: Sphinx) -> dict[str, bool]:  # noqa: ARG001
    """Put it in the place of the other; a Jupyter without keys has no such warning either."""
    import zmq

    if hasattr(jupyter_client.AsyncKernelManager, "transport_encryption") and zmq.has("curve"):
        jupyter_client.AsyncKernelManager = EncryptedKernelManager
    return {"parallel_read_safe": True, "parallel_write_safe": True}
