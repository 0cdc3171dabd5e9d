"""`python -m clearsight` is the command line."""

from clearsight.cli.main import main

if __name__ == "__main__":
    main()
