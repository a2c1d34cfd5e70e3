"""The page of `spear metrics --report`."""
