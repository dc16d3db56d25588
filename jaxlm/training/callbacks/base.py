"""The base classes of callbacks, see `jaxlm.core.callback`."""

from jaxlm.core.callback import Callback, Hook, Taken

__all__ = ["Callback", "Hook", "Taken"]
