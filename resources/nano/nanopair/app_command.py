"""App `command`: a sentence to a phone becomes a call such as `set_alarm(hour=7, minute=30)`.

Key: function and all argument values; a hash puts each key on one side, so no call of the test
set is ever a training target.
"""

import random

from .draw import between, is_test_key, pick
from .world import ADJECTIVES, DAYS, NAMES, NOUNS, words_of

_CITIES = words_of(
    "Paris Madrid Rome Tokyo Cairo Lima Havana Oslo Athens Vienna Moscow Beijing Nairobi Warsaw"
)
_PLACES = words_of("school hospital court theater church library office cafe bank beach palace lab")
_APPS = words_of("map clock bank music note film game book train weather chess letter")
_KINDS = ("test", "class", "dinner", "party", "dance", "lunch")

_LEADS = ("", "please ", "hey phone, ", "now ", "could you ", "i would like you to ")
_TAILS = ("", " please", " for me", " right away", " thanks")

Arguments = dict[str, str | int]
# function: sentences, in which a field in braces is the argument as it is spoken
_FUNCTIONS = {
    "set_alarm": ("wake me at {when}", "set an alarm at {when}", "ring me up at {when}"),
    "set_timer": (
        "set a timer to {minutes} minutes",
        "count down {minutes} minutes",
        "tell me when {minutes} minutes are over",
    ),
    "call_contact": ("call {name}", "ring {name}", "get {name} on the phone"),
    "send_text": (
        "send {name} a text saying {title}",
        "text {name} the words {title}",
        "let {name} read {title}",
    ),
    "play_song": ("play {title}", "start the song {title}", "put on {title}"),
    "get_weather": (
        "say if it rains in {city} on {day}",
        "get the weather of {day} in {city}",
        "look how warm {city} is on {day}",
    ),
    "set_volume": (
        "set the volume to {level}",
        "make the sound level {level}",
        "change how loud it is to {level}",
    ),
    "go_to": (
        "find the road to the {place} by {mode}",
        "go to the {place} by {mode}",
        "take me by {mode} to the {place}",
    ),
    "add_event": (
        "add a {kind} with {name} on {day} at {hour}",
        "plan a {kind} at {hour} on {day} with {name}",
        "on {day} i have a {kind} at {hour} with {name}",
    ),
    "pay_contact": (
        "pay {name} {amount} coins",
        "send {amount} coins to {name}",
        "give {name} {amount} of my coins",
    ),
    "open_app": (
        "open the {app} app on screen {screen}",
        "start my {app} app, screen {screen}",
        "on screen {screen} show the {app} program",
    ),
    "find_photo": (
        "find the photo of {name} from {day}",
        "show {name} as seen on {day}",
        "look for {day} photos with {name}",
    ),
}


def _title(rng: random.Random) -> str:
    return f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"


def _when(rng: random.Random) -> tuple[str, Arguments]:
    """A time as spoken, with its 24-hour arguments."""
    hour, late, kind = between(rng, 1, 11), rng.random() < 0.5, between(rng, 0, 2)
    half = "pm" if late else "am"
    minute = between(rng, 1, 59)
    if kind == 0:
        spoken = f"{hour}:{minute:02d} {half}"
    else:
        lead, minute = pick(rng, (("", 0), ("half past ", 30), ("quarter past ", 15)))
        spoken = f"{lead}{hour} {half}"
    return spoken, {"hour": hour + 12 * late, "minute": minute}


def _arguments(rng: random.Random, function: str) -> tuple[dict[str, str | int], Arguments]:
    """(fields as spoken, arguments of the call) of one request."""
    name, day, title = pick(rng, NAMES), pick(rng, DAYS), _title(rng)
    if function == "set_alarm":
        spoken, arguments = _when(rng)
        return {"when": spoken}, arguments
    drawn: dict[str, Arguments] = {
        "set_timer": {"minutes": between(rng, 1, 99)},
        "call_contact": {"name": name},
        "send_text": {"name": name, "title": title},
        "play_song": {"title": title},
        "get_weather": {"city": pick(rng, _CITIES), "day": day},
        "set_volume": {"level": between(rng, 0, 99)},
        "go_to": {"place": pick(rng, _PLACES), "mode": pick(rng, ("car", "bus", "train", "bike"))},
        "add_event": {
            "kind": pick(rng, _KINDS),
            "name": name,
            "day": day,
            "hour": between(rng, 1, 24),
        },
        "pay_contact": {"name": name, "amount": between(rng, 1, 50)},
        "open_app": {"app": pick(rng, _APPS), "screen": between(rng, 1, 20)},
        "find_photo": {"name": name, "day": day},
    }
    return drawn[function], drawn[function]


def _render(function: str, arguments: Arguments) -> str:
    """The call as text; words of a title stand in quotes."""
    shown = (f'{k}="{v}"' if " " in str(v) else f"{k}={v}" for k, v in arguments.items())
    return f"{function}({', '.join(shown)})"


def command_example(rng: random.Random, test: bool) -> tuple[str, dict[str, str]]:
    """One (key, example) of the wanted side."""
    while True:
        function = pick(rng, list(_FUNCTIONS))
        spoken, arguments = _arguments(rng, function)
        call = _render(function, arguments)
        if is_test_key(call) == test:
            break
    sentence = pick(rng, _FUNCTIONS[function]).format(**spoken)
    request = pick(rng, _LEADS) + sentence + pick(rng, _TAILS)
    example = {"prompt": f"Command: {request}\nCall:", "completion": f" {call}", "answer": call}
    return call, example
