from __future__ import annotations

import json

import pytest
from learning_client import HTML, Engineer, texts
from photo_folders import QUICK, write_photos

from oddlens.pages.learning.folders import PhotoFolder
from oddlens.pages.learning.project_pages import PER_PAGE, folder_cards

SQUARE = [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]]
STALE = "Somebody else changed this project"


def test_photographs_are_shown_in_pages_and_by_what_they_are_for(engineer: Engineer) -> None:
    project = engineer.project()
    page = engineer.page(f"/learn/projects/{project.id}")
    assert page.count('class="photo"') == PER_PAGE
    assert "Page 1 of 2" in page
    assert engineer.page(f"/learn/projects/{project.id}?page=99999999").count('class="photo"') == 60 - PER_PAGE
    page = engineer.page(f"/learn/projects/{project.id}?view=test/spot")
    assert page.count('class="photo"') == 6
    assert "Are these all defective?" in page
    assert engineer.page(f"/learn/projects/{project.id}?view=../x").count('class="photo"') == PER_PAGE
    assert "There is no photograph here" in engineer.page(f"/learn/projects/{project.id}?view=excluded")


def test_photographs_are_excluded_and_included_again(engineer: Engineer) -> None:
    project = engineer.project()
    address, photos = f"/learn/projects/{project.id}/photographs", engineer.photos(project)
    answer = engineer.post(address, revision=2, excluded="yes", image=photos[:2]).json()
    assert (answer["revision"], answer["changed"]) == (3, photos[:2])
    assert engineer.work.projects.get(project.id).excluded == tuple(sorted(photos[:2]))
    answer = engineer.post(address, revision=3, excluded="yes", image=photos[1:3]).json()
    assert answer["changed"] == [photos[2]], "so that an undo includes no more than was excluded"
    answer = engineer.post(address, revision=4, excluded="no", image=photos[:2]).json()
    assert engineer.work.projects.get(project.id).excluded == (photos[2],)
    page = engineer.page(f"/learn/projects/{project.id}?view=excluded")
    assert page.count('aria-pressed="true"') == 1
    assert [action for _, action in engineer.actions()] == ["exclude", "exclude", "include"]
    assert engineer.post(address, revision=5, excluded="yes", image=["0" * 16]).status_code == 404
    assert engineer.post(address, revision=5, excluded="yes").status_code == 404


def test_two_engineers_at_once_lose_nothing(engineer: Engineer) -> None:
    project = engineer.project()
    address, photo = f"/learn/projects/{project.id}", engineer.photos(project)[0]
    engineer.client.post("/name", data={"name": "Eve <b>"}, headers=HTML)
    assert engineer.post(f"{address}/photographs", revision=2, excluded="yes", image=photo).status_code == 200
    stale = {
        "photographs": {"image": photo, "excluded": "no"},
        "name": {"name": "Lids"},
        "settings": {"false_alarm_rate": "7", "detector": "padim"},
        "region": {"region": json.dumps(SQUARE)},
        "normal": {"normal": "x"},
    }
    for change, fields in stale.items():
        response = engineer.post(f"{address}/{change}", revision=2, **fields)
        assert response.status_code == 409, change
        if change != "photographs":
            assert STALE in response.text
            assert "Eve &lt;b&gt; excluded photographs" in texts(response.text)
            assert 'name="revision" value="3"' in response.text, "so that it can be sent again"
        else:
            assert response.json()["stale"]
    present = engineer.work.projects.get(project.id)
    assert (present.revision, present.name, present.settings, present.region) == (3, "Caps", QUICK, ())
    assert present.excluded == (photo,)
    settings = engineer.post(f"{address}/settings", revision=2, **stale["settings"]).text
    assert '<option value="padim" selected>' in settings
    assert '<option value="7.0' in settings
    drawn = engineer.post(f"{address}/region", revision=2, **stale["region"]).text
    assert json.dumps({"region": SQUARE, "present": []}) in drawn
    assert STALE in engineer.page(f"{address}?stale=1")
    assert STALE in engineer.page(engineer.post(f"{address}/check", revision=2).headers["location"])
    assert engineer.work.jobs.all() == []


def test_a_fit_of_what_somebody_else_changed_does_not_begin(engineer: Engineer) -> None:
    project = engineer.project()
    fields = {"detector": "autoencoder", "tile": "auto", "epochs": "1", "start": "1"}
    assert engineer.post(f"/learn/projects/{project.id}/settings", revision=1, **fields).status_code == 409
    assert engineer.work.jobs.all() == []
    response = engineer.post(f"/learn/projects/{project.id}/settings", revision=2, **fields)
    assert response.headers["location"] == f"/learn/jobs/{engineer.work.jobs.all()[0].id}"
    assert engineer.work.projects.get(project.id).revision == 2, "the settings are the same"


def test_settings_are_read_as_people_write_them(engineer: Engineer) -> None:
    project = engineer.project()
    fields = {"false_alarm_rate": "0,5", "budget": "5", "detector": "patchcore", "light": "fixed", "size": "128"}
    response = engineer.post(f"/learn/projects/{project.id}/settings", revision=2, **fields)
    assert response.headers["location"] == f"/learn/projects/{project.id}/fit"
    settings = engineer.work.projects.get(project.id).settings
    assert (settings.false_alarm_rate, settings.budget, settings.light, settings.size) == (0.005, 300, "fixed", 128)
    assert settings.epochs is None
    page = engineer.page(f"/learn/projects/{project.id}/fit")
    assert '<option value="0.5" selected>' in page
    assert '<option value="5" selected>' in page


@pytest.mark.parametrize(
    "fields",
    [
        {"false_alarm_rate": "many"}, {"false_alarm_rate": "300"}, {"budget": "-1"}, {"epochs": "1.5"}, {"size": "1"},
        {"detector": "magic"}, {"detector": "autoencoder", "light": "fixed"}, {"false_alarm_rate": "nan"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_on_the_page(engineer: Engineer, fields: dict[str, str]) -> None:
    project = engineer.project()
    response = engineer.post(f"/learn/projects/{project.id}/settings", revision=2, start="1", **fields)
    assert response.status_code == 422
    assert 'role="alert"' in response.text
    assert "Let it learn" in response.text
    assert (engineer.work.projects.get(project.id).revision, engineer.work.jobs.all()) == (2, [])


def test_a_region_is_drawn_and_shown_again(engineer: Engineer) -> None:
    project = engineer.project()
    address = f"/learn/projects/{project.id}/region"
    assert engineer.post(address, revision=2, region=json.dumps(SQUARE)).status_code == 303
    assert json.dumps({"region": SQUARE, "present": []}) in engineer.page(address)
    assert "1 area" in engineer.page(f"/learn/projects/{project.id}")
    assert engineer.post(address, revision=3, region="").status_code == 303
    assert engineer.work.projects.get(project.id).region == ()
    wrong = [
        "x",
        "[1]",
        "[[[0.1, 2]]]",
        "[[[0, 0], [1, 0], [2, 2]]]",
        '{"a": 1}',
        "[[[0.1]]]",
        "[[[0,0],[1,0]]]",
        "NaN",
    ]
    for region in (*wrong, "[" * 5000, json.dumps([[[0.5, 0.5]] * 3])):
        assert engineer.post(address, revision=4, region=region).status_code == 422, region[:40]


def test_a_check_shows_what_it_noticed_with_what_it_means(engineer: Engineer) -> None:
    copy = engineer.root / "parts/train/good/copy.png"
    copy.write_bytes((engineer.root / "parts/train/good/000.png").read_bytes())
    project = engineer.project()
    address = f"/learn/projects/{project.id}/check"
    assert "Go on without a check" in engineer.page(address)
    assert engineer.post(address, revision=2).headers["location"] == address
    assert "hx-get" in engineer.page(address)
    job = engineer.work.jobs.all()[0]
    engineer.work.jobs.stop(job.id)
    engineer.done(project, "check")
    page = engineer.page(address)
    assert "The same photograph more than once" in page
    assert "copy.png" in page
    assert page.index("Please look") < page.index("Good to know")
    assert "The photographs were changed since" not in page
    engineer.work.projects.change(project.id, 2, excluded=engineer.photos(project)[:1])
    assert "The photographs were changed since" in engineer.page(address)


def test_who_continues_begins_the_check_and_does_not_begin_it_twice(engineer: Engineer) -> None:
    project = engineer.project()
    address = f"/learn/projects/{project.id}"
    assert f'method="post" action="{address}/check"' in engineer.page(address)
    engineer.post(f"{address}/check", revision=2)
    page = engineer.page(address)
    assert f'method="post" action="{address}/check"' not in page
    assert f'href="{address}/check">Continue' in page
    engineer.work.projects.change(project.id, 2, excluded=engineer.photos(project)[:1])
    assert f'method="post" action="{address}/check"' in engineer.page(address), "the photographs are others now"


def test_while_a_detector_learns_the_settings_say_so(engineer: Engineer) -> None:
    project = engineer.project()
    address = f"/learn/projects/{project.id}/fit"
    assert "See how far it is" not in engineer.page(address)
    job = engineer.work.jobs.add("fit", project, "ann")
    assert f'<a href="/learn/jobs/{job.id}">See how far it is</a>' in engineer.page(address)
    engineer.work.jobs.stop(job.id)
    assert "See how far it is" not in engineer.page(address)


def test_folders_of_classes_let_people_say_which_shows_good_parts(engineer: Engineer) -> None:
    for name in ("fine", "bent", "<b>"):
        write_photos(engineer.root / "classes" / name, 5)
    project = engineer.project(folder="classes")
    page = engineer.page(f"/learn/projects/{project.id}")
    assert "Do only some of the folders inside show good parts?" in page
    assert "<option>&lt;b&gt;</option>" in page
    engineer.post(f"/learn/projects/{project.id}/normal", revision=2, normal="fine")
    page = engineer.page(f"/learn/projects/{project.id}")
    assert "Defects to test with: bent" in page
    engineer.post(f"/learn/projects/{project.id}/normal", revision=3, normal="no such")
    page = engineer.page(f"/learn/projects/{project.id}")
    assert "Which photographs show good parts?" in page
    assert str(engineer.root) not in page


def test_a_project_whose_folder_is_gone_says_so(engineer: Engineer) -> None:
    write_photos(engineer.root / "short", 3)
    project = engineer.project(folder="short")
    for path in (engineer.root / "short").iterdir():
        path.unlink()
    assert "its photographs are no longer there" in engineer.page("/learn")
    assert engineer.get(f"/learn/projects/{project.id}").status_code == 404


def test_the_root_is_a_card_only_where_images_lie_in_it_directly() -> None:
    def folder(name: str, count: int, uploaded: bool = False) -> PhotoFolder:
        return PhotoFolder(name, name, count, uploaded)

    below = [folder("a", 3), folder("a/b", 3), folder("c/d", 2), folder("new", 1, uploaded=True)]
    assert [card.folder.name for card in folder_cards([folder(".", 5), *below])] == ["new", "a", "c/d"]
    assert [card.folder.name for card in folder_cards([folder(".", 6), *below])] == ["new", ".", "a", "c/d"]
    assert [inner.name for inner in folder_cards(below)[1].inside] == ["a/b"]
