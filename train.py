"""Train the network: `python train.py --help` names the options."""

from cnnbp.errors import in_one_line
from cnnbp.train import main

if __name__ == "__main__":
    with in_one_line():
        main()
