"""May you: decides every action by the policy file, and records each decision before it answers.

Asked by the core, by authn and audit about administration that they relay, and by other platform services.
"""
