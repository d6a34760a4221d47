"""What becomes of a Model whose claim lost its volume."""

from __future__ import annotations

from bud.kube.kinds import CLAIMS
from bud.model.plan import plan
from tests.unit.model.views import claim, job, view


def test_a_claim_that_lost_its_volume_has_no_job_which_would_keep_it_from_being_deleted() -> None:
    waiting = job()
    wanted = plan(view(claim=claim("Lost"), job=waiting))
    assert [resource for resource, _ in wanted.objects] == [CLAIMS]
    assert wanted.unwanted == (waiting,)
