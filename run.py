"""The command `distil` for those who look for a `run.py`: `python run.py run -c configs/quickstart.yaml`."""

from distillation.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
