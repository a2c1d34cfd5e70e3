"""`python -m spear_cli`, for torchrun and `accelerate launch -m spear_cli`."""

from spear_cli.app import main

main()
