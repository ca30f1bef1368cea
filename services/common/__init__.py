"""What every service needs and no service decides: errors, configuration, TLS, gRPC, clocks, logs.

A closed list: a module here has at least two users and no business rule, except the principal token (R5)
and the audit client (R18), which are contracts between services.
"""
