"""Receding-horizon control: sample a window of actions, execute the first few."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import ArrayLike
from torch import Tensor

from ambient_curate.data.windows import restore_actions
from ambient_curate.errors import CheckpointError, ConfigError
from ambient_curate.option_fields import check_argument, check_path, one_of, whole
from ambient_curate.policy.checkpoints import POLICY, build_from_card, load_weights
from ambient_curate.policy.denoiser import Denoiser
from ambient_curate.policy.interface import Interface
from ambient_curate.policy.solvers import Solver, sample_windows
from ambient_curate.run.records import read_run

NOWHERE = "windows relative to their own first action say nothing of where to begin"


class Policy:
    """A trained policy that acts on several environments at once, each with its own history.

    Parameters
    ----------
    denoiser : Denoiser
        With its weights.
    interface : Interface
        Of the data it was trained on.
    steps : int
        Denoising steps.
    solver : {"ddim", "ddpm"}
        See `sample_windows`.
    seed : int
        Of all noise.

    Raises
    ------
    ValueError
        If its windows refer to something that it does not observe.
    ConfigError
        If a number of steps, the solver or the seed is wrong.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        interface: Interface,
        *,
        horizon: int,
        steps: int = 10,
        solver: Solver = "ddim",
        seed: int = 0,
    ) -> None:
        if interface.reference == "first action":
            raise ValueError(NOWHERE)
        if interface.reference == "state" and interface.scale_state is None:
            raise ValueError("windows are relative to the state, which the policy does not observe")
        self.denoiser, self.interface, self.horizon = denoiser, interface, horizon
        self.steps = check_argument("steps", steps, whole(1))
        self.solver: Solver = check_argument("solver", solver, one_of(Solver))
        self.seed = check_argument("seed", seed, whole(0))
        self.reset()

    def reset(self, environments: Sequence[int] | None = None) -> None:
        """Forget the history of some environments; None: of all, and begin the noise anew."""
        if environments is None:
            self._generator = torch.Generator().manual_seed(self.seed)
            self._seen: dict[int, deque[np.ndarray]] = {}
            return
        for number in _check_numbers(environments):
            self._seen.pop(number, None)

    def act(
        self, observation: Mapping[str, ArrayLike], *, environments: Sequence[int] | None = None
    ) -> Float32[np.ndarray, "env n_action_steps action"]:
        """Give the next `n_action_steps` actions of each environment.

        Call it once for every frame that is to be remembered; see `observe`.

        Parameters
        ----------
        observation : mapping of str to array
            ``state``, shape (env, state), where the policy observes one; and every column that it
            is conditioned on, shape (env,).
        environments : sequence of int, or None
            Numbers of the environments; None: 0, 1, ...

        Returns
        -------
        ndarray, float32, shape (env, n_action_steps, action)
            In the units of the data; the first is for the present frame.

        Raises
        ------
        ValueError
            If the observation lacks something, has another shape or is not finite; nothing is
            remembered then.
        """
        numbers = self._check(observation, environments, self.interface.columns)
        conditions = self._encode(observation, len(numbers))
        self.observe(observation, environments=numbers)
        with torch.inference_mode():
            windows = self._sample(conditions, numbers)
        first = self.interface.n_obs_steps - 1
        return windows[:, first : first + self.interface.n_action_steps].numpy()

    def observe(
        self, observation: Mapping[str, ArrayLike], *, environments: Sequence[int] | None = None
    ) -> list[int]:
        """Remember a frame without acting; return the numbers of the environments.

        Raises
        ------
        ValueError
            If the observation lacks the state, has another shape or is not finite; nothing is
            remembered then.
        """
        numbers = self._check(observation, environments)
        if self.interface.scale_state is not None:
            states = np.array(observation["state"], dtype=np.float32)  # callers reuse theirs
            for number, state in zip(numbers, states, strict=True):
                history = self._seen.setdefault(number, deque(maxlen=self.interface.n_obs_steps))
                if not history:
                    history.extend([state] * self.interface.n_obs_steps)
                history.append(state)
        return numbers

    def _check(
        self,
        observation: Mapping[str, ArrayLike],
        environments: Sequence[int] | None,
        columns: Iterable[str] = (),
    ) -> list[int]:
        """Check what a policy needs of an observation; return the numbers of the environments."""
        state = self.interface.scale_state
        needed = {} if state is None else {"state": state.scale.shape}
        needed |= dict.fromkeys(columns, ())
        if missing := [name for name in needed if name not in observation]:
            raise ValueError(f"the observation lacks {missing}: it has {sorted(observation)}")
        if environments is None:
            if not observation:
                raise ValueError(
                    "nothing is observed: give `environments`, such as range(2), to say which act"
                )
            environments = range(len(np.atleast_1d(next(iter(observation.values())))))
        numbers = _check_numbers(environments)
        for name, shape in needed.items():
            found, expected = np.shape(observation[name]), (len(numbers), *shape)
            if found != expected:
                raise ValueError(f"{name} has shape {found}; expected {expected}, one row each")
        if state is not None:
            seen = np.asarray(observation["state"], dtype=np.float32)
            finite = np.asarray(np.isfinite(seen).all(axis=1))
            if not finite.all():
                bad = [numbers[row] for row in np.flatnonzero(~finite)]
                raise ValueError(f"the state of environments {bad} is not finite")
        return numbers

    def _encode(self, observation: Mapping[str, ArrayLike], rows: int) -> Tensor:
        columns = {name: np.asarray(observation[name]) for name in self.interface.columns}
        conditions = [
            self.interface.encode({name: values[row] for name, values in columns.items()})
            for row in range(rows)
        ]
        return torch.from_numpy(np.stack(conditions))

    def _sample(self, condition: Tensor, numbers: Sequence[int]) -> Tensor:
        interface, device = self.interface, self.denoiser.sigma.device
        reference = None
        if interface.scale_state is not None:
            seen = torch.from_numpy(np.stack([np.stack(self._seen[n]) for n in numbers]))
            scaled = interface.scale_state.apply(seen).flatten(1)
            condition = torch.cat([scaled, condition], dim=1)
            reference = seen[:, 0] if interface.reference == "state" else None
        shape = (len(numbers), self.horizon, interface.scale_action.scale.size)
        start = torch.randn(shape, generator=self._generator).to(device)
        windows = sample_windows(
            self.denoiser,
            condition.to(device),
            start,
            steps=self.steps,
            solver=self.solver,
            generator=self._generator,
        )
        unscaled = interface.scale_action.undo(windows.cpu())
        return restore_actions(unscaled, interface.represent, reference)


def _check_numbers(environments: Sequence[int]) -> list[int]:
    """Give numbers of environments; `ValueError` where they are none, or one is there twice."""
    if isinstance(environments, Iterable):
        numbers = [check_argument("environments", number, whole(0)) for number in environments]
        if len(set(numbers)) == len(numbers):
            return numbers
    raise ValueError(
        f"environments = {environments!r}: expected numbers, none twice, such as range(2)"
    )


def load_policy(
    path: Path | str,
    *,
    steps: int = 10,
    solver: Solver = "ddim",
    seed: int = 0,
    n_action_steps: int | None = None,
    device: str = "cpu",
) -> Policy:
    """Load a policy that ``train`` wrote.

    Parameters
    ----------
    path : Path or str
        Its directory.
    steps, solver, seed
        As in `Policy`.
    n_action_steps : int or None
        Actions to execute of every window, >= 1; None: as it was trained for.
    device : str
        Where to compute.

    Raises
    ------
    CurateError
        If the directory holds no finished policy of this version, its windows have fewer actions
        than are to be executed, or an argument is wrong.
    """
    path = check_path("path", path)
    card = read_run(path, POLICY)
    denoiser, interface = build_from_card(card)
    if n_action_steps is not None:
        most = int(card["shape"]["horizon"]) - interface.n_obs_steps + 1
        rule = replace(whole(1, most), expected=f"1 to {most} actions of the windows of {path}")
        count = check_argument("n_action_steps", n_action_steps, rule)
        interface = replace(interface, n_action_steps=count)
    if interface.reference == "first action":
        raise CheckpointError(
            f"{path} cannot act: {NOWHERE}",
            "annotate data that has a state of the actions' dimensions, or --represent absolute",
        )
    load_weights(denoiser, path / POLICY.results[0])
    return Policy(
        _move(denoiser, device).requires_grad_(False).eval(),
        interface,
        horizon=int(card["shape"]["horizon"]),
        steps=steps,
        solver=solver,
        seed=seed,
    )


def _move(denoiser: Denoiser, device: str) -> Denoiser:
    """Move a denoiser to a device, which may not be there."""
    try:
        return denoiser.to(torch.device(device))
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device = {device!r} cannot be used: {str(error).splitlines()[0]}",
            "use cpu, or cuda where there is one",
        ) from error
