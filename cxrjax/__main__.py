"""`python -m cxrjax --mode=...`."""

from cxrjax import cli

if __name__ == "__main__":
    cli.run()
