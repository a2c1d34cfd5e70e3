"""SPEAR: speech plus a reference video in, a talking-face video out.

`spear.stages` holds one function per command; everything else serves those seven functions.
"""

from spear.version import __version__

__all__ = ["__version__"]
