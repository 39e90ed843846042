"""Notes, e-mails and orders, each with one line of JSON that says what is in it; made here, seeded.

The keys and the form of the values are ours, and no text says them, so that a model knows neither
without examples:

    who    surname in capitals, then the initial of the first name: "PORTER A"
    when   the day as an ISO date
    where  the first three letters of the town, in capitals: "LIS"
    sum    ISO currency code and an amount with two decimals: "EUR 120.50"
    item   number and thing, the thing in the singular: "3 desk lamp"

Each text also holds a second date and a second person, which the answer leaves out.
"""

import datetime
import json
import random
from typing import Any

FIRST = (
    "Ann", "Boris", "Clara", "David", "Elena", "Farid", "Greta", "Hugo", "Iris", "Jonas", "Karin",
    "Liam", "Mona", "Nils", "Olga", "Pablo", "Rosa", "Samir", "Tara", "Viktor", "Wendy", "Yusuf",
)  # fmt: skip
LAST = (
    "Porter", "Abel", "Brandt", "Castillo", "Dunn", "Eriksen", "Fischer", "Grant", "Holm", "Ivanov",
    "Jensen", "Keller", "Lopez", "Meyer", "Novak", "Osman", "Petrov", "Quinn", "Rossi", "Silva",
    "Turner", "Ulrich", "Vance", "Weber", "Young", "Zimmer",
)  # fmt: skip
TOWNS = (
    "Lisbon", "Oslo", "Madrid", "Vienna", "Prague", "Dublin", "Athens", "Berlin", "Geneva", "Milan",
    "Boston", "Denver", "Toronto", "Nairobi", "Cairo", "Delhi", "Osaka", "Seoul", "Sydney", "Lima",
    "Bogota", "Havana", "Warsaw", "Zagreb", "Riga", "Tunis",
)  # fmt: skip
THINGS = (
    ("desk lamp", "desk lamps"), ("office chair", "office chairs"), ("red box", "red boxes"),
    ("glass shelf", "glass shelves"), ("bread knife", "bread knives"), ("battery", "batteries"),
    ("garden bench", "garden benches"), ("coffee cup", "coffee cups"),
    ("wall clock", "wall clocks"),
    ("winter scarf", "winter scarves"), ("paint brush", "paint brushes"), ("toy bus", "toy buses"),
    ("copper wire", "copper wires"), ("steel key", "steel keys"), ("puppet", "puppets"),
    ("canvas bag", "canvas bags"), ("water pump", "water pumps"), ("diary", "diaries"),
)  # fmt: skip
CURRENCIES = {"EUR": ("€", "euros"), "USD": ("$", "dollars"), "GBP": ("£", "pounds")}
NUMBERS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
FORMS = (
    "Order from {who} in {where}: {item} for {sum}, to arrive on {when}. "
    "Entered by {clerk} on {noted}.",
    "Hi {clerk}, {who} called on {noted}. We owe {sum} for {item}; they go to {where} by {when}.",
    "Invoice, written {noted} by {clerk}. {item}, {sum}. Delivery: {when}, {where}. "
    "Customer: {who}.",
    "Dear {clerk}, on {when} I will collect {item} at your shop in {where}. As agreed on {noted}, "
    "I pay {sum}. Regards, {who}",
    "Note to self ({noted}): {item} must be in {where} on {when}, {sum} in cash, ask for {who} and "
    "not for {clerk}.",
    "{who} wants {item}. Price {sum}. Ship to {where}, {when}. "
    "Asked {clerk} about it on {noted}.",
    "Reminder of {noted}: the {where} branch expects {item} on {when}. "
    "{who} pays {sum}, {clerk} drives.",
)  # fmt: skip
KEYS = ("who", "when", "where", "sum", "item")


def said_date(day: datetime.date, rng: random.Random) -> str:
    """A day as people write it."""
    month, number = MONTHS[day.month - 1], day.day
    last = "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return rng.choice((
        f"{month} {number}, {day.year}",
        f"{number} {month} {day.year}",
        f"the {number}{last} of {month} {day.year}",
        f"{number}.{day.month}.{day.year}",
        f"{month[:3]} {number} {day.year}",
    ))  # fmt: skip


def said_sum(cents: int, currency: str, rng: random.Random) -> str:
    """An amount of money as people write it."""
    sign, name = CURRENCIES[currency]
    whole, rest = divmod(cents, 100)
    short = f"{whole}.{rest:02d}" if rest else str(whole)
    return rng.choice((
        f"{sign}{short}",
        f"{short} {name}",
        f"{whole} {name} and {rest} cents" if rest and currency != "GBP" else f"{short} {name}",
    ))  # fmt: skip


def record(rng: random.Random) -> dict[str, Any]:
    """One text with its answer: `prompt`, `completion`, `answer`."""
    first, other = rng.sample(FIRST, 2)
    last, others = rng.sample(LAST, 2)
    day = datetime.date(2021, 1, 1) + datetime.timedelta(days=rng.randrange(2200))
    noted = day - datetime.timedelta(days=rng.randrange(2, 60))
    town, thing = rng.choice(TOWNS), rng.choice(THINGS)
    count, currency = rng.randrange(1, 13), rng.choice(tuple(CURRENCIES))
    cents = rng.randrange(5, 900) * 100 + rng.choice((0, 0, 50, 25, 99, 5))
    number = rng.choice((str(count), NUMBERS[count - 2])) if count > 1 else rng.choice(("1", "one"))
    text = rng.choice(FORMS).format(
        who=f"{first} {last}",
        where=town,
        item=f"{number} {thing[count > 1]}",
        sum=said_sum(cents, currency, rng),
        when=said_date(day, rng),
        noted=said_date(noted, rng),
        clerk=rng.choice((other, f"{other} {others}")),
    )
    answer = json.dumps({
        "who": f"{last.upper()} {first[0]}",
        "when": day.isoformat(),
        "where": town[:3].upper(),
        "sum": f"{currency} {cents // 100}.{cents % 100:02d}",
        "item": f"{count} {thing[0]}",
    })  # fmt: skip
    prompt = f"Text: {text[0].upper()}{text[1:]}\nJSON:"
    return {"prompt": prompt, "completion": f" {answer}", "answer": answer}


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` records with different texts, in a fixed order."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        row = record(rng)
        rows.setdefault(row["prompt"], row)
    return list(rows.values())


def fields(written: str) -> dict[str, Any]:
    """The first JSON object of a text; empty where there is none."""
    begin = written.find("{")
    try:
        content, _ = json.JSONDecoder().raw_decode(written[max(begin, 0) :])
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def right_fields(written: str, answer: str) -> list[int]:
    """A 1 for each key of the answer whose value is right."""
    given, wanted = fields(written), json.loads(answer)
    return [int(given.get(key) == value) for key, value in wanted.items()]
