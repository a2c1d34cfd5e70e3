"""Nets that SPEAR trains."""
