"""`python -m tfticket_cli` is the program `tfticket`."""

from tfticket_cli.main import main

if __name__ == "__main__":
    main()
