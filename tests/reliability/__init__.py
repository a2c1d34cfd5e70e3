"""Issue 8 as tests: what SPEAR does with bad input, full disks, kills and hostile files. See scripts/reliability.sh."""
