"""Train the network: `python train.py --help` names the options."""

from cnnbp.main_job import run_from_command_line

if __name__ == "__main__":
    run_from_command_line()
