"""`Store`: inspections and judgements are added and read; nothing that was recorded is ever changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from sqlalchemy import exists, func, insert, select

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, StateError
from oddlens.store import content_rows, deployments, integrity, judgements, queries, retention, schema
from oddlens.store.contents import ContentFolder, sha256
from oddlens.store.database import Database, parse_url
from oddlens.store.inspection import Action, Deployment, Filters, Inspection, Judgement, StoredInspection, Verdict
from oddlens.store.tables import ContentRow, DetectorRow, InspectionRow, JudgementRow

PAGE = 1000  # inspections that are read in one transaction
ALL = Filters()

NewInspection = tuple[Inspection, bytes, bytes | None]  # with the content of its image, and its map as PNG


class PreparedInspection(NamedTuple):
    """An inspection whose files are written: the values of its row, and its contents by their SHA-256."""

    values: dict[str, Any]
    contents: dict[str, bytes]


class Store:
    """The inspections of any number of detectors, in SQLite or PostgreSQL, with their images as files beside.

    Threads may share a store, and processes may open it at the same time. `migrated_from` is the version of the
    tables that an older oddlens had left, or None.

    Example:
        >>> import tempfile
        >>> from oddlens.store.open import open_store
        >>> with open_store(tempfile.mkdtemp() + "/parts.db") as store:
        ...     store.counts()["n"]
        0
    """

    def __init__(self, database: Database, files: ContentFolder, migrated_from: str | None = None) -> None:
        self.name = database.name  # in messages: the path, or the URL without its password
        self.files = files
        self.migrated_from = migrated_from
        self._connected: Database | None = database
        self._detector_paths: dict[str, Path] = {}  # of those added by this process, by their digests

    @classmethod
    def open(cls, url: str, files: str | Path | None = None, *, create: bool = True) -> Store:
        """Open a store, and migrate it where an older oddlens made it.

        Parameters:
            url: `sqlite:///FILE`, the path of a SQLite file, or `postgresql://USER@HOST/DATABASE?files=FOLDER`.
            files: folder of images, maps and detectors; by default that of the URL, or `FILE.files`.
            create: whether to make a new store where there is none.

        Raises:
            SettingsError: the URL is none, or lacks the folder.
            DataNotFoundError: there is no store, and none shall be made.
            StoreError: it cannot be reached, is newer than this oddlens, or its folder is another store's or missing.
            ArtifactError: it is damaged, or another program's.
            MissingExtraError: the database's driver is not installed.
        """
        address, folder = parse_url(url, None if files is None else Path(files))
        database, contents = Database(address), ContentFolder(folder)
        if database.is_sqlite and not create and not Path(database.name).is_file():
            raise DataNotFoundError(f"{database.name}: does not exist; give the address of a store of inspections")
        try:
            store_id, migrated_from = schema.open_tables(database, create)
            with database.read() as session:
                is_new = not session.scalar(select(exists().where(ContentRow.sha256.is_not(None))))
            contents.claim(store_id, is_new)
        except BaseException:
            database.close()
            raise
        return cls(database, contents, migrated_from)

    # -- adding -----------------------------------------------------------------------------------

    def add_detector(self, detector: Detector, path: str | Path) -> None:
        """Store the file that a detector was loaded from, before its inspections; once is enough for a process.

        Raises:
            ArtifactError: the file has changed since.
            DataNotFoundError: there is no such file.
            StoreError, DiskFullError, OddlensError: it cannot be written.
        """
        digest, path = detector.manifest.digest, Path(path)
        content = content_rows.read_detector(path, digest)
        row = DetectorRow(
            digest=digest, sha256=sha256(content), suffix=path.suffix, training=detector.manifest.data.fingerprint
        )
        self.files.write(content, row.sha256)
        with self._database.write() as session:
            if session.get(DetectorRow, digest) is None:
                session.add(row)
            content_rows.use(session, self.files, {row.sha256: (content, datetime.now(UTC))})
        self._detector_paths[digest] = path

    def add(self, inspection: Inspection, image: bytes, map_png: bytes | None = None) -> int:
        """Store an inspection with the content of its image file; when this returns, a crash loses nothing of it.

        Returns its id. The image is stored as it was sent, so that the same pixels can be decoded again.

        Raises:
            StateError: its detector was not added, or the store is closed.
            DiskFullError: there is no room; nothing is stored, and it may succeed later.
            StoreError, OddlensError: it cannot be written for another reason.
        """
        return self.add_batch([(inspection, image, map_png)])[0]

    def add_batch(self, items: Sequence[NewInspection]) -> list[int]:
        """Store several inspections in one transaction, all or none of them; see `add`. Returns their ids."""
        return self.commit(self.prepare(items))

    def prepare(self, items: Sequence[NewInspection]) -> list[PreparedInspection]:
        """Write the files of inspections, in any thread; `commit` stores the inspections.

        Raises:
            StateError, DiskFullError, StoreError, OddlensError: as `add`.
        """
        self._check_is_open()
        prepared = []
        for inspection, *contents in items:
            digests = [None if content is None else sha256(content) for content in contents]
            files = {d: content for d, content in zip(digests, contents, strict=True) if d and content is not None}
            for digest, content in files.items():
                self.files.write(content, digest)
            values = {name: getattr(inspection, name) for name in queries.COPIED}
            values |= {"image_sha256": digests[0], "map_sha256": digests[1]}
            prepared.append(PreparedInspection(values, files))
        return prepared

    def commit(self, prepared: Sequence[PreparedInspection]) -> list[int]:
        """Store inspections whose files are written in one transaction, all or none of them; returns their ids.

        Raises:
            StateError, DiskFullError, StoreError: as `add`.
        """
        rows, uses = [values for values, _ in prepared], content_rows.Uses()
        for values, files in prepared:
            for digest, content in files.items():
                used = uses[digest][1] if digest in uses else values["time"]
                uses[digest] = content, max(values["time"], used)
        with self._database.write() as session:
            content_rows.use_detectors(session, self.files, rows, self._detector_paths)
            content_rows.use(session, self.files, uses)
            statement = insert(InspectionRow).returning(InspectionRow.id, sort_by_parameter_order=True)
            return [*session.scalars(statement, rows)] if rows else []

    def judge(self, inspection_id: int, verdict: Verdict, *, person: str, reason: str = "") -> Judgement:
        """Record what a person judged; an earlier judgement stays, and this one counts from now on.

        Raises:
            DataNotFoundError: there is no such inspection.
            SettingsError: it is no verdict, or the person has no name.
        """
        with self._database.write() as session:
            return judgements.judge(session, inspection_id, verdict, person, reason)

    def withdraw(self, judgement_id: int, *, person: str, reason: str = "") -> Judgement:
        """Record that a judgement is undone, so that the one before it counts again, if there is one.

        Raises:
            DataNotFoundError: there is no such judgement.
            StateError: it was withdrawn before, or is the undoing of another.
            SettingsError: the person has no name.
        """
        with self._database.write() as session:
            return judgements.withdraw(session, judgement_id, person, reason)

    def deploy(self, name: str, digest: str, *, person: str, reason: str = "") -> Deployment:
        """Record that a detector is put into service under a name; from now on retention leaves its file alone.

        Raises:
            StateError: the detector was not added, or retention has removed its file.
            SettingsError: the name is none for a detector, or the person has no name.
        """
        with self._database.write() as session:
            return deployments.deploy(session, name, digest, person, reason)

    def record_action(
        self, action: str, subject: str, *, person: str, details: Mapping[str, Any] | None = None
    ) -> Action:
        """Record what a person did to a subject, with details that are values for JSON.

        Raises:
            SettingsError: the details are no such values, or the person has no name.
        """
        with self._database.write() as session:
            return deployments.record_action(session, action, subject, person, details)

    # -- reading ----------------------------------------------------------------------------------

    def inspection(self, inspection_id: int) -> StoredInspection:
        """One inspection.

        Raises:
            DataNotFoundError: there is none with this id.
        """
        query = queries.select_inspections(ALL).where(InspectionRow.id == inspection_id)
        with self._database.read() as session:
            row = session.execute(query).one_or_none() if queries.is_id(inspection_id) else None
            if row is None:
                raise DataNotFoundError(f"there is no inspection {inspection_id}; check its id")
            return queries.to_inspection(row)

    def inspections(
        self, filters: Filters = ALL, *, limit: int = 100, before: int | None = None
    ) -> list[StoredInspection]:
        """The newest inspections, newest first; the next page is `before` the id of the last of them."""
        query = queries.select_inspections(filters).order_by(InspectionRow.id.desc()).limit(limit)
        with self._database.read() as session:
            rows = session.execute(query if before is None else query.where(InspectionRow.id < before))
            return [queries.to_inspection(row) for row in rows]

    def iter_inspections(self, filters: Filters = ALL) -> Iterator[list[StoredInspection]]:
        """All inspections, oldest first, some at a time with constant memory; writers do not wait for the caller."""
        last = 0
        while page := self._inspections_after(filters, last, PAGE):
            yield page
            last = page[-1].id

    def inspections_after(self, last: int, limit: int = 200) -> list[StoredInspection]:
        """The inspections whose ids are above `last`, oldest first.

        Reading on from the id of the last one misses none. PostgreSQL numbers rows before they are committed, so a
        later id could appear before an earlier one; the lock that all writers of a store take prevents that. Rows of
        another program, which does not take it, can be missed.
        """
        return self._inspections_after(ALL, last, limit)

    def _inspections_after(self, filters: Filters, last: int, limit: int) -> list[StoredInspection]:
        query = queries.select_inspections(filters).where(InspectionRow.id > last)
        with self._database.read() as session:
            rows = session.execute(query.order_by(InspectionRow.id).limit(limit))
            return [queries.to_inspection(row) for row in rows]

    def judgements_after(self, last: int, limit: int = 200) -> list[Judgement]:
        """The judgements and withdrawals whose ids are above `last`, oldest first; see `inspections_after`."""
        query = select(JudgementRow).where(JudgementRow.id > last).order_by(JudgementRow.id).limit(limit)
        with self._database.read() as session:
            return [queries.to_judgement(row) for row in session.scalars(query)]

    def last_ids(self) -> tuple[int, int]:
        """The largest id of an inspection, and of a judgement; 0 where there is none."""
        query = select(*(select(func.max(row.id)).scalar_subquery() for row in (InspectionRow, JudgementRow)))
        with self._database.read() as session:
            inspection_id, judgement_id = session.execute(query).one()
            return inspection_id or 0, judgement_id or 0

    def judgements(self, inspection_id: int) -> list[Judgement]:
        """All that people judged about an inspection, withdrawals too, oldest first."""
        query = select(JudgementRow).where(JudgementRow.inspection_id == inspection_id).order_by(JudgementRow.id)
        with self._database.read() as session:
            return [queries.to_judgement(row) for row in session.scalars(query)]

    def deployments(self, name: str | None = None, limit: int = 100) -> list[Deployment]:
        """What was put into service, under any name or this one, newest first."""
        with self._database.read() as session:
            return deployments.select_newest(session, name, limit)

    def has_served(self, digest: str, name: str | None = None) -> bool:
        """Whether a detector was ever put into service, under a name or under any."""
        with self._database.read() as session:
            return deployments.has_served(session, digest, name)

    def deployed(self) -> dict[str, Deployment]:
        """The newest deployment of each name that was not taken out of service since, in the order of names."""
        with self._database.read() as session:
            newest, out = deployments.newest_by_name(session), deployments.out_of_service(session)
            return {name: deployment for name, deployment in newest.items() if name not in out}

    def out_of_service(self) -> dict[str, Action]:
        """The names that were taken out of service and not put into it again, with what a person did."""
        with self._database.read() as session:
            return deployments.out_of_service(session)

    def take_out_of_service(self, name: str, *, person: str, reason: str = "") -> Action:
        """Record that nothing serves under a name from now on; what served stays in the history.

        Raises:
            SettingsError: the person has no name.
            DiskFullError, StoreError: it cannot be recorded.
        """
        return self.record_action(deployments.OUT_OF_SERVICE, name, person=person, details={"reason": reason})

    def actions(self, limit: int = 100, before: int | None = None) -> list[Action]:
        """What people did, newest first; the next page is `before` the id of the last of them."""
        with self._database.read() as session:
            return deployments.select_actions(session, limit, before)

    def counts(self, filters: Filters = ALL) -> dict[str, int]:
        """Numbers: `n`, `n_anomalous`, `n_judged`, `n_false_alarms` and `n_missed`."""
        with self._database.read() as session:
            return dict(session.execute(queries.select_counts(filters)).one()._mapping)

    def image(self, inspection: StoredInspection) -> bytes | None:
        """The content of the image file; None once retention has removed it.

        Raises:
            ArtifactError: it is missing, or not what was written.
        """
        return self._content(inspection.image_sha256) if inspection.image_stored else None

    def map_png(self, inspection: StoredInspection) -> bytes | None:
        """The map as PNG; None once retention has removed it, or where there was none.

        Raises:
            ArtifactError: it is missing, or not what was written.
        """
        return self._content(inspection.map_sha256) if inspection.map_sha256 and inspection.map_stored else None

    def detector_file(self, inspection: StoredInspection) -> tuple[str, bytes] | None:
        """Suffix and content of the detector's file; None once retention has removed it.

        Raises:
            ArtifactError: it is missing, or not what was written.
        """
        content = self._content(inspection.detector_sha256) if inspection.detector_stored else None
        return None if content is None else (inspection.detector_suffix, content)

    def detector_content(self, digest: str) -> tuple[str, bytes]:
        """Suffix and content of the file of a detector, by the digest in its manifest.

        Raises:
            DataNotFoundError: it was not added, or retention has removed its file.
            ArtifactError: the file is missing, or not what was written.
        """
        with self._database.read() as session:
            row = session.get(DetectorRow, digest)
            is_stored = row is not None and content_rows.is_stored(session, row.sha256)
        content = self._content(row.sha256) if row is not None and is_stored else None
        if row is None or content is None:
            raise DataNotFoundError(f"the file of the detector {digest} is not in the store; add the detector again")
        return row.suffix, content

    def _content(self, digest: str) -> bytes | None:
        """A content that was stored when its inspection was read; None where it was removed since."""
        try:
            return self.files.read(digest)
        except ArtifactError:
            with self._database.read() as session:
                if content_rows.is_stored(session, digest):
                    raise
            return None

    # -- upkeep -----------------------------------------------------------------------------------

    def prune(
        self, *, keep_days: float | None = None, keep_gb: float | None = None, dry_run: bool = False
    ) -> retention.Pruned:
        """Remove the oldest files, and those that a crash left; see `retention.prune`."""
        return retention.prune(self._database, self.files, keep_days, keep_gb, dry_run)

    def check(self) -> list[str]:
        """What is wrong with the store: in the database, and files that are missing or not what was written."""
        return integrity.problems(self._database, self.files)

    def close(self) -> None:
        """Close the database; the store cannot be used afterwards."""
        database, self._connected = self._connected, None
        if database is not None:
            database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _database(self) -> Database:
        self._check_is_open()
        return cast(Database, self._connected)

    def _check_is_open(self) -> None:
        if self._connected is None:
            raise StateError("this store is closed; open it again")
