"""`python -m cifar_utils` is the command line: see cli/main.py."""

from cifar_utils.cli.main import main

if __name__ == "__main__":
    main()
