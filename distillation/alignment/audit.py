"""The audit's command under the name that it had before: one line with the new one."""

import sys

if __name__ == "__main__":
    sys.exit("error: python -m distillation.alignment.audit is now python -m distillation.audit")
