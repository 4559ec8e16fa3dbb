"""`python launch.py --mode=...`: the command line of cxrjax, as the console command `cxrjax` is."""

from cxrjax import cli

if __name__ == "__main__":
    cli.run()
