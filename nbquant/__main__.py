"""Entry point of ``python -m nbquant``."""

from nbquant.cli import main

if __name__ == "__main__":
    main()
