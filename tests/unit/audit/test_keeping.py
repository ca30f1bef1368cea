"""What is recorded of a deletion that does not come to its end."""

import pytest

from services.audit.authorizing import Authorizer
from services.audit.keeping import AuditKeeping
from services.audit.masking import Masker
from services.audit.retention import SEGMENT
from services.common.errors import Unavailable
from tests.fakes.clock import FakeClock
from tests.unit.audit.support import FixedPolicy, MemoryLog, NamedPrincipals
from tests.unit.audit.test_service import Rig


class Failing(MemoryLog):
    """Deletes two batches and then no more."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = [16, 3]

    async def retire(self, until: str, most: int) -> int:
        if not self.batches:
            raise Unavailable("The store does not answer.")
        return self.batches.pop(0)


@pytest.mark.req("I4.5", "R18")
async def test_what_is_gone_is_on_record_though_the_rest_could_not_be_deleted() -> None:
    log, clock, rig = Failing(), FakeClock(), Rig()
    policy = FixedPolicy("admin")
    principals = NamedPrincipals(**rig.principals.identities)
    keeping = AuditKeeping(log, Authorizer(log, principals, policy, clock, Masker(b"mask")), clock, 30)
    with pytest.raises(Unavailable):
        await keeping.retire(rig.reader())
    asked, done = log.records
    assert (asked["action"], done["action"]) == ("audit.Retire", "audit.Retired")
    assert done["metadata"]["events"] == str(19 * SEGMENT)
    assert done["user"] == "admin"
    with pytest.raises(Unavailable):
        await keeping.retire(rig.reader())
    assert [each["action"] for each in log.records[2:]] == ["audit.Retire"], "nothing was deleted"
