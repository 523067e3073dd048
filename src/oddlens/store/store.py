"""`Store`: inspections and judgements are added and read; nothing that was recorded is ever changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from oddlens.artifact.loading import read_digest
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError, StateError
from oddlens.store import integrity, queries, retention, schema
from oddlens.store.contents import ContentFolder, sha256
from oddlens.store.database import Database, parse_url
from oddlens.store.inspection import (
    Filters,
    Inspection,
    Judgement,
    StoredInspection,
    Verdict,
    check_verdict,
    clean_text,
)
from oddlens.store.tables import ContentRow, DetectorRow, InspectionRow, JudgementRow

PAGE = 1000  # inspections that are read in one transaction
MAX_ID = 2**63 - 1
ALL = Filters()

NewInspection = tuple[Inspection, bytes, bytes | None]  # with the content of its image, and its map as PNG


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
        content = read_detector(path, digest)
        row = DetectorRow(
            digest=digest, sha256=sha256(content), suffix=path.suffix, training=detector.manifest.data.fingerprint
        )
        self.files.write(content, row.sha256)
        with self._database.write() as session:
            if session.get(DetectorRow, digest) is None:
                session.add(row)
            self._use(session, {row.sha256: (content, datetime.now(UTC))})
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
        rows, uses = list[InspectionRow](), dict[str, tuple[bytes, datetime]]()
        for inspection, *contents in items:
            digests = [None if content is None else sha256(content) for content in contents]
            for digest, content in zip(digests, contents, strict=True):
                if digest is not None and content is not None:
                    used = uses[digest][1] if digest in uses else inspection.time
                    uses[digest] = content, max(inspection.time, used)
            values = {name: getattr(inspection, name) for name in queries.COPIED}
            rows.append(InspectionRow(**values, image_sha256=digests[0], map_sha256=digests[1]))
        database = self._database
        for digest, (content, _) in uses.items():  # before the transaction, for which others wait
            self.files.write(content, digest)
        with database.write() as session:
            self._use_detectors(session, rows)
            self._use(session, uses)
            session.add_all(rows)
            session.flush()
            return [row.id for row in rows]

    def judge(self, inspection_id: int, verdict: Verdict, *, person: str, reason: str = "") -> Judgement:
        """Record what a person judged; an earlier judgement stays, and this one counts from now on.

        Raises:
            DataNotFoundError: there is no such inspection.
            SettingsError: it is no verdict, or the person has no name.
        """
        check_verdict(verdict)
        with self._database.write() as session:
            if not 0 < inspection_id <= MAX_ID or session.get(InspectionRow, inspection_id) is None:
                raise DataNotFoundError(f"there is no inspection {inspection_id}; check its id")
            return self._add_judgement(session, inspection_id, person, reason, verdict=verdict)

    def withdraw(self, judgement_id: int, *, person: str, reason: str = "") -> Judgement:
        """Record that a judgement is undone, so that the one before it counts again, if there is one.

        Raises:
            DataNotFoundError: there is no such judgement.
            StateError: it was withdrawn before, or is the undoing of another.
            SettingsError: the person has no name.
        """
        with self._database.write() as session:
            row = session.get(JudgementRow, judgement_id) if 0 < judgement_id <= MAX_ID else None
            if row is None:
                raise DataNotFoundError(f"there is no judgement {judgement_id}; check its id")
            undone = session.scalar(select(exists().where(JudgementRow.withdraws == judgement_id)))
            if undone or row.withdraws is not None:
                what = "was withdrawn already" if undone else "is itself the undoing of another"
                raise StateError(f"judgement {judgement_id} {what}; judge the inspection again")
            return self._add_judgement(session, row.inspection_id, person, reason, withdraws=judgement_id)

    def _add_judgement(
        self,
        session: Session,
        inspection_id: int,
        person: str,
        reason: str,
        verdict: Verdict | None = None,
        withdraws: int | None = None,
    ) -> Judgement:
        if not person.strip():
            raise SettingsError("a judgement needs the name of the person who made it")
        row = JudgementRow(
            inspection_id=inspection_id,
            time=datetime.now(UTC),
            person=clean_text(person),
            verdict=verdict,
            reason=clean_text(reason),
            withdraws=withdraws,
        )
        session.add(row)
        session.flush()
        return queries.to_judgement(row)

    def _use(self, session: Session, uses: dict[str, tuple[bytes, datetime]]) -> None:
        """Note that contents are used, in the transaction that no other process removes files in."""
        present = {row.sha256: row for row in session.scalars(select(ContentRow).where(ContentRow.sha256.in_(uses)))}
        for digest, (content, used) in uses.items():
            self.files.write(content, digest)  # again, if it was removed meanwhile
            row = present.get(digest)
            if row is None:
                session.add(ContentRow(sha256=digest, size=len(content), used=used, expired=False))
            else:
                row.used, row.expired = max(row.used, used), False

    def _use_detectors(self, session: Session, rows: Sequence[InspectionRow]) -> None:
        """Note that detectors are used, and store the file again of one that retention has removed."""
        times: dict[str, datetime] = {}
        for row in rows:
            times[row.detector_digest] = max(row.time, times.get(row.detector_digest, row.time))
        for digest, used in times.items():
            detector = session.get(DetectorRow, digest)
            content = None if detector is None else session.get(ContentRow, detector.sha256)
            if detector is not None and content is not None and not content.expired:
                content.used = max(content.used, used)
            elif detector is not None and digest in self._detector_paths:
                self._use(session, {detector.sha256: (read_detector(self._detector_paths[digest], digest), used)})
            else:
                raise StateError(f"the detector {digest} is not in the store; call add_detector first")

    # -- reading ----------------------------------------------------------------------------------

    def inspection(self, inspection_id: int) -> StoredInspection:
        """One inspection.

        Raises:
            DataNotFoundError: there is none with this id.
        """
        query = queries.select_inspections(ALL).where(InspectionRow.id == inspection_id)
        with self._database.read() as session:
            row = session.execute(query).one_or_none() if 0 < inspection_id <= MAX_ID else None
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
        while True:
            query = queries.select_inspections(filters).where(InspectionRow.id > last)
            with self._database.read() as session:
                rows = session.execute(query.order_by(InspectionRow.id).limit(PAGE))
                page = [queries.to_inspection(row) for row in rows]
            if not page:
                return
            yield page
            last = page[-1].id

    def judgements(self, inspection_id: int) -> list[Judgement]:
        """All that people judged about an inspection, withdrawals too, oldest first."""
        query = select(JudgementRow).where(JudgementRow.inspection_id == inspection_id).order_by(JudgementRow.id)
        with self._database.read() as session:
            return [queries.to_judgement(row) for row in session.scalars(query)]

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

    def _content(self, digest: str) -> bytes | None:
        """A content that was stored when its inspection was read; None where it was removed since."""
        try:
            return self.files.read(digest)
        except ArtifactError:
            with self._database.read() as session:
                if session.scalar(select(exists().where(queries.is_stored(ContentRow, digest)))):
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
        if self._connected is None:
            raise StateError("this store is closed; open it again")
        return self._connected


def read_detector(path: Path, digest: str) -> bytes:
    """The content of a detector file, which must be whole and have this digest.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is another detector now, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path}: no longer exists, so it cannot be stored; put the detector back") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    changed = ArtifactError(f"{path}: has changed since it was loaded; load the detector again")
    try:
        if read_digest(path, content) != digest:
            raise changed
    except ArtifactError as error:
        raise changed from error
    return content
