from __future__ import annotations

from learning_client import HTML, Engineer, texts
from running_service import noise

from oddlens.pages.learning.job import Job


def digest_of(engineer: Engineer, name: str) -> str:
    """What serves under a name."""
    served = {row["name"]: row["digest"] for row in engineer.client.get("/v1/detectors").json()}
    return str(served.get(name, ""))


def test_a_detector_is_put_into_service_and_the_one_before_brought_back(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    before = digest_of(engineer, "part")
    engineer.client.post("/name", data={"name": "Ann <b>"}, headers=HTML)
    fields = {"name": "part", "job": job.id, "reason": "new <i>lamp</i>"}
    assert engineer.post("/learn/service", **fields).headers["location"] == "/learn/service?name=part"
    assert digest_of(engineer, "part") not in ("", before)
    page = engineer.page("/learn/service?name=part")
    assert "part is in service now." in page
    assert "new &lt;i&gt;lamp" in page
    assert "Ann &lt;b&gt;" in page
    assert "<i>lamp" not in page
    assert "<b>" not in page
    assert f'href="/learn/jobs/{job.id}"' in page
    assert f'name="digest" value="{before}"' in page
    assert engineer.post("/learn/service", name="part", digest=before).status_code == 303
    assert digest_of(engineer, "part") == before
    assert engineer.work.store.deployments("part")[0].detector_digest == before


def test_what_cannot_serve_is_refused_and_nothing_changes(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    before = engineer.client.get("/v1/detectors").json()
    wrong = [
        *(({"name": name, "job": job.id}, 422) for name in ("", "../x", "<b>")),
        ({"name": "part", "digest": "../../etc/passwd"}, 404),
        ({"name": "part"}, 404),
        ({"name": "part", "job": "x"}, 404),
        ({"name": "part", "job": job.id, "rate": "../.."}, 404),
    ]
    for fields, status in wrong:
        response = engineer.post("/learn/service", **fields)
        assert response.status_code == status, fields
        assert "That did not work" in response.text
    assert engineer.client.get("/v1/detectors").json() == before


def test_a_new_name_serves_beside_the_others(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    assert 'value="Caps"' not in engineer.page(f"/learn/jobs/{job.id}/deploy"), "there are names already"
    engineer.post("/learn/service", name="lids", job=job.id)
    assert digest_of(engineer, "lids")
    assert digest_of(engineer, "part")


def test_a_name_is_taken_out_of_service_and_brought_back(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    engineer.post("/learn/service", name="caps", job=job.id)
    digest = digest_of(engineer, "caps")
    assert (
        engineer.post("/learn/service/out", name="caps", reason="<b>closed</b>").headers["location"] == "/learn/service"
    )
    assert digest_of(engineer, "caps") == ""
    answer = engineer.client.post("/v1/inspect?detector=caps", files={"file": ("a.png", noise())})
    assert answer.status_code == 404
    page = engineer.page("/learn/service")
    assert "took out of service: &lt;b&gt;closed" in page
    assert f'name="name" value="caps"><input type="hidden" name="digest" value="{digest}"' in page
    assert engineer.post("/learn/service/out", name="caps").status_code == 422
    engineer.post("/learn/service", name="caps", digest=digest)
    assert digest_of(engineer, "caps") == digest


def test_what_people_did_is_there_page_by_page(engineer: Engineer) -> None:
    project = engineer.project()
    for i in range(55):
        engineer.work.store.record_action("rename", f"<b>{i}", person="eve", details={"project": project.id})
    page = texts(engineer.page("/learn/service"))
    assert "renamed the project" in page
    assert "54" in page
    assert "Older ones" in page
    assert "<b>54" not in engineer.page("/learn/service")
    older = engineer.page("/learn/service?before=6")
    assert "&lt;b&gt;4<" in older
    assert "&lt;b&gt;6<" not in older
    assert engineer.get("/learn/service?before=x").status_code == 200
