"""Who somebody is: the pair of issuer and subject (R1), and its name in one text."""

OWN_ISSUER = "kubegate"
"""The issuer of our own users and keys."""


def user_name(issuer: str, subject: str) -> str:
    """The name in the field ``user`` of records: the subject for our own issuer, ``issuer:subject`` for every other,
    and for ours too where the subject holds a colon. So two identities never share a name (R1)."""
    return subject if issuer == OWN_ISSUER and ":" not in subject else f"{issuer}:{subject}"
