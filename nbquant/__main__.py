"""The command line as ``python -m nbquant``."""

from nbquant.cli import main

if __name__ == "__main__":
    main()
