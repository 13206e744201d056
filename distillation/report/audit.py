"""placeholder."""


def audit_summary(audit):
    return None
