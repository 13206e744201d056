"""What a teacher cache keeps of a window, made by the live teacher; and a dense slice to measure it against.

Legend, at the end of names: B windows, T student positions, S teacher positions, N used positions, m of them
with a target, E entries, P positions of the dense slice, V student vocabulary.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from distillation.aligners.targets import ChunkTargets, TargetSource
from distillation.config import DIVERGENCES, CacheSettings, Settings
from distillation.corpus.windows import WindowCollator
from distillation.errors import InputError, ModelError, one_line, shorten
from distillation.files import write_atomically
from distillation.kernels.batch import BatchView, StudentOutput
from distillation.kernels.chunked import even_chunks
from distillation.models.load import load_model, need_start_token_id
from distillation.seals import first_fault, read_sealed, write_sealed
from distillation.teachers.cache.entries import KEY_BYTES, WindowEntries
from distillation.teachers.cache.sparse import largest_and_drawn, systematic_sample
from distillation.teachers.cache.store import CacheReader
from distillation.teachers.live import LiveTeacher

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.models.decision import TeacherDecision
    from distillation.tokenizers.pairs import EncodedPair

logger = logging.getLogger(__name__)
CHUNK_ELEMENTS = 1 << 24
"""Probabilities that may exist at a time: 64 MiB in float32."""
DENSE_FILE, DENSE_RECORD = "dense.safetensors", "dense.json"
NUM_DENSE = 512
"""Positions whose whole target is kept."""
LEAST = 6e-8
"""What a zero counts as in the comparison: float16's least number."""


class TargetWriter:
    """Runs the teacher over windows and keeps little of what it says.

    Args:
        settings: the cache, the objective that it serves, the models.
        aligner: makes targets of the teacher's rows.
        tokenizers: of teacher and student.
        decision: how the teacher is run.
    """

    BATCH = 16
    """Windows at a time; part of what determines the last bit of a target."""

    def __init__(
        self, settings: Settings, aligner: Aligner, tokenizers: Sequence[Any], decision: TeacherDecision
    ) -> None:
        from distillation.tokenizers.token_bytes import boundary_tokens, tokens_as_bytes

        assert settings.cache is not None
        reference, terms = settings.models.teacher, settings.objective.terms.active
        device = decision.device
        model = load_model(
            reference,
            "teacher",
            device=device,
            dtype=decision.teacher_dtype,
            attention=decision.teacher_attention,
        )
        self.teacher, self.aligner, self.device = LiveTeacher(model), aligner.to(device), device
        self.path, self.teacher_tokenizer = reference.path, tokenizers[0]
        self.cache, self.temperature = settings.cache, settings.objective.temperature
        self.has_targets = bool(terms.keys() & set(DIVERGENCES))
        self.boundary_U: Tensor | None = None
        if "likelihood" in terms:
            tokens = tokens_as_bytes(tokenizers[0])
            self.boundary_U = boundary_tokens(tokens, self.teacher.num_rows).to(device)
        teacher_start = need_start_token_id(tokenizers[0], "teacher")
        student_start = need_start_token_id(tokenizers[1], "student")
        self.collator = WindowCollator(student_start, teacher_start, aligner)

    def entries(self, keys: Sequence[bytes], pairs: Sequence[EncodedPair]) -> list[WindowEntries]:
        """Return what is kept of each window.

        Raises:
            ModelError: the teacher says what is no number.
        """
        kept: list[WindowEntries] = []
        for begin in range(0, len(keys), self.BATCH):
            kept += self._batch(keys[begin : begin + self.BATCH], pairs[begin : begin + self.BATCH])
        return kept

    @torch.no_grad()
    def _batch(self, keys: Sequence[bytes], pairs: Sequence[EncodedPair]) -> list[WindowEntries]:
        view = self.view(pairs)
        shape = view.used_BT.shape
        num_entries_BT, residual_BT = np.zeros(shape, np.int64), np.zeros(shape, np.float64)
        tail_BT = np.zeros(shape, np.float16)
        ids, weights = [np.zeros(0, np.int64)], [np.zeros(0, self._weight_type)]
        used = [index.numpy() for index in view.used_BT.cpu().nonzero(as_tuple=True)]
        uniform_N = torch.from_numpy(self._uniform(keys, shape)[tuple(used)]).to(self.device)
        for chunk, targets, rows in self._sparse(view, uniform_N):
            places = tuple(index[chunk][targets.index_m.cpu().numpy()] for index in used)
            num_entries_BT[places] = rows.num_entries_m.cpu().numpy()
            residual_BT[places] = targets.residual_m.cpu().numpy()
            tail_BT[places] = rows.tail_m.cpu().numpy()
            ids.append(rows.id_E.cpu().numpy())
            weights.append(rows.weight_E.cpu().numpy().astype(self._weight_type))
        ends_B = np.cumsum(num_entries_BT.sum(1))
        id_parts = np.split(np.concatenate(ids), ends_B[:-1])
        weight_parts = np.split(np.concatenate(weights), ends_B[:-1])
        count_type = np.uint8 if self.cache.most_entries < 256 else np.uint16
        id_type = np.uint16 if self.aligner.num_student_rows <= 65_536 else np.uint32
        kept = []
        for index, (pair, log_probs_S2) in enumerate(zip(pairs, self._log_probs(view, pairs), strict=True)):
            num_entries_T = num_entries_BT[index, : len(pair.student.ids)]
            tail_T = tail_BT[index, : len(pair.student.ids)]
            num_targets = max(int((num_entries_T > 0).sum()), 1)
            kept.append(
                WindowEntries(
                    num_entries_T=num_entries_T.astype(count_type),
                    id_E=id_parts[index].astype(id_type),
                    weight_E=weight_parts[index],
                    tail_T=tail_T if self.cache.kind == "top_k" else tail_T[:0],
                    residual=np.asarray(residual_BT[index].sum() / num_targets, np.float32),
                    log_probs_S2=log_probs_S2,
                )
            )
        return kept

    def view(self, pairs: Sequence[EncodedPair]) -> BatchView:
        """Return a batch as the objective sees it; there is no student, and nobody asks for one."""
        batch = {name: tensor.to(self.device) for name, tensor in self.collator(pairs).items()}
        nobody = StudentOutput(torch.zeros(*batch["input_ids"].shape, 1, device=self.device), None, None, 1)
        return BatchView(batch, nobody, self.teacher)

    def _sparse(self, view: BatchView, uniform_N: Tensor) -> Any:
        """Yield (positions, their targets, what is kept of them) for each chunk of used positions."""
        if not self.has_targets:
            return
        for chunk, targets in self.dense(view):
            faulty_m = ~targets.target_mV.sum(1).isfinite()
            if bool(faulty_m.any()):
                self._refuse(view, int(view.window_N[chunk][targets.index_m[faulty_m]][0]))
            cache, uniform_m = self.cache, uniform_N[chunk][targets.index_m]
            if cache.kind == "top_k":
                rows = largest_and_drawn(targets.target_mV, uniform_m, cache.k, cache.num_tail_samples)
            else:
                rows = systematic_sample(targets.target_mV, uniform_m, cache.num_samples)
            yield chunk, targets, rows

    def dense(self, view: BatchView) -> Any:
        """Yield (positions, targets over the whole vocabulary) for each chunk of used positions."""
        source = TargetSource(view, self.aligner, self.temperature)
        elements = 3 * self.aligner.num_student_rows + 2 * self.teacher.num_rows
        for chunk in even_chunks(len(view.labels_N), max(32, CHUNK_ELEMENTS // elements)):
            targets = source.of_chunk(chunk)
            order_m = targets.index_m.argsort()
            yield (
                chunk,
                ChunkTargets(
                    index_m=targets.index_m[order_m],
                    # Rows, one by one, are what is sorted and added up next.
                    target_mV=targets.target_mV[order_m].contiguous(),
                    residual_m=targets.residual_m[order_m],
                    companion_loss=targets.companion_loss,
                ),
            )

    def _refuse(self, view: BatchView, window: int) -> NoReturn:
        """Say that the teacher fails on a window of a batch.

        Raises:
            ModelError: names the window by its text.
        """
        ids = view.batch["teacher_input_ids"][window][view.batch["teacher_attention_mask"][window] > 0]
        text = " ".join(self.teacher_tokenizer.decode(ids[1:41]).split())
        raise ModelError(
            f"models.teacher.path = {self.path}: what the teacher says of the window {shorten(text, 60)!r} "
            "is not finite; set models.teacher.dtype to float32, or leave the document out"
        )

    def _uniform(self, keys: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
        """Return float64 (B, T): a number a position, by the cache's seed, the window and the position."""
        uniform_BT = np.zeros(shape)
        for row, key in zip(uniform_BT, keys, strict=True):
            seeds = [self.cache.seed, int.from_bytes(key, "little")]
            row[:] = np.random.default_rng(seeds).random(shape[1])
        return uniform_BT

    def _log_probs(self, view: BatchView, pairs: Sequence[EncodedPair]) -> list[np.ndarray]:
        """Return what likelihood matching needs of each window's teacher tokens."""
        if self.boundary_U is None:
            return [np.zeros((0, 2), np.float16) for _ in pairs]
        real_M = view.teacher_labels_M >= 0
        states_MD, labels_M = view.teacher_states_MD[real_M], view.teacher_labels_M[real_M]
        both_M2 = self.teacher.token_and_set_log_probs(states_MD, labels_M, self.boundary_U)
        faulty_M = both_M2.isnan().any(1)
        if bool(faulty_M.any()):
            row = int(real_M.nonzero().squeeze(1)[faulty_M][0])
            self._refuse(view, row // view.batch["teacher_labels"].shape[1])
        ends_B = np.cumsum([len(pair.teacher.ids) for pair in pairs])
        return np.split(both_M2.half().cpu().numpy(), ends_B[:-1])

    @property
    def _weight_type(self) -> Any:
        if self.cache.kind == "top_k":
            return np.float16
        return np.uint8 if self.cache.num_samples < 256 else np.uint16


def write_dense(
    directory: Path, keys: Sequence[bytes], pairs: Sequence[EncodedPair], writer: TargetWriter
) -> None:
    """Keep the whole targets of the first `NUM_DENSE` positions of these windows, float16."""
    from safetensors.numpy import save

    key_P, position_P, target_PV = [], [], []
    num_kept = 0
    for key, pair in zip(keys, pairs, strict=False):
        if num_kept >= NUM_DENSE or not writer.has_targets:
            break
        view = writer.view([pair])
        used_T = view.used_BT[0].cpu().nonzero().squeeze(1)
        for chunk, targets in writer.dense(view):
            index_m = targets.index_m.cpu()[: NUM_DENSE - num_kept]
            num_kept += len(index_m)
            key_P += [np.frombuffer(key, np.uint8)] * len(index_m)
            position_P.append(used_T[chunk][index_m].numpy())
            target_PV.append(targets.target_mV[: len(index_m)].half().cpu().numpy())
    if not num_kept:
        return
    content = save(
        {
            "key": np.stack(key_P),
            "position": np.concatenate(position_P),
            "target": np.concatenate(target_PV),
        }
    )
    write_atomically(directory / DENSE_FILE, content)
    write_sealed(directory / DENSE_RECORD, {"files": {DENSE_FILE: hashlib.sha256(content).hexdigest()}})


def has_dense(directory: Path) -> bool:
    """Say whether the whole targets are there, as they were written; damage is warned of."""
    if not (directory / DENSE_RECORD).exists():
        return False
    try:
        fault = first_fault(directory, read_sealed(directory / DENSE_RECORD)["files"])
    except InputError as error:
        fault = one_line(error)
    if fault is not None:
        logger.warning("teacher cache %s: %s; it is made anew", directory, fault)
    return fault is None


def compare_with_dense(directory: Path, reader: CacheReader, cache: CacheSettings) -> dict[str, float]:
    """Return how far the cache's targets are from the whole ones, over the positions of the dense slice.

    Returns:
        `dense/positions`; `dense/total_variation`, the mean distance of a target from its dense one;
        `dense/bias`, the distance of their means, which goes to 0 with the positions if there is no bias;
        for `top_k` `dense/tail`, the mass outside of the likeliest, and without draws from it, where it
        counts as spread evenly over the other tokens, `dense/kl`.
    """
    from safetensors.numpy import load_file

    if not has_dense(directory):
        return {}
    tensors = load_file(directory / DENSE_FILE)
    target_PV = tensors["target"].astype(np.float64)
    target_PV /= target_PV.sum(1, keepdims=True)
    sparse_PV, tail_P = np.zeros_like(target_PV), np.zeros(len(target_PV))
    for row, (key, position) in enumerate(zip(tensors["key"], tensors["position"], strict=True)):
        entries = reader.read(key.tobytes()[:KEY_BYTES])
        end = int(entries.num_entries_T[: position + 1].sum(dtype=np.int64))
        chosen = slice(end - int(entries.num_entries_T[position]), end)
        weights = entries.weight_E[chosen].astype(np.float64)
        if cache.kind == "top_k":
            tail_P[row] = float(entries.tail_T[position])
            if len(weights) <= cache.k:
                sparse_PV[row] = tail_P[row] / max(target_PV.shape[1] - len(weights), 1)
        sparse_PV[row, entries.id_E[chosen]] = weights
    sparse_PV /= sparse_PV.sum(1, keepdims=True)
    found = {
        "dense/positions": float(len(target_PV)),
        "dense/total_variation": float(np.abs(target_PV - sparse_PV).sum(1).mean() / 2),
        "dense/bias": float(np.abs(target_PV.mean(0) - sparse_PV.mean(0)).sum() / 2),
    }
    if cache.kind == "top_k":
        found["dense/tail"] = float(tail_P.mean())
    if cache.kind == "top_k" and not cache.num_tail_samples:
        ratio_PV = np.log(np.maximum(target_PV, LEAST) / np.maximum(sparse_PV, LEAST))
        found["dense/kl"] = float((target_PV * ratio_PV).sum(1).mean())
    return found
