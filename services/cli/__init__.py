"""The operator's command line: starts a stack on this machine and administers one through its services' RPCs.

It never opens a store, with one exception: `kubegate audit verify` reads the audit log itself, so that an
auditor needs no running service.
"""
