"""The outside as the service sees it: principal tokens of authn, the audit log, the policy file."""
