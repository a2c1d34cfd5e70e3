"""Nets that SPEAR borrows, frozen, with weights from a file or a hub."""
