"""The small world that every text is about: names, things, numbers and facts."""

from dataclasses import dataclass

TOP = 50  # largest number that any text computes with


def words_of(text: str) -> list[str]:
    """Words between blanks."""
    return text.split()


_NAMES = (
    "Tom Mia Sam Ann Ben Eva Max Lea Jon Ida Leo Amy Dan Zoe Kai Liv Tim Eve Rob Joy Ned Una "
    "Gus Fay Hal Ivy Jim Kim Lou May Nick Pam Ray Sue Ted Val Will Rose Jack Lucy Paul Nina "
    "Mark Lily Fred Ella Hugo Ruth"
)
NAMES = words_of(_NAMES)
_ITEMS = (
    "apples pens coins books cards shells stones stamps eggs cakes balls toys keys cups plates "
    "hats socks pears plums nuts beads flags kites boats bells candles buttons flowers tickets "
    "cookies lemons onions spoons rings masks drums"
)
ITEMS = words_of(_ITEMS)
# The last third of the names and items is seen by no app's training set.
TRAIN_NAMES, TEST_NAMES = NAMES[:32], NAMES[32:]
TRAIN_ITEMS, TEST_ITEMS = ITEMS[:24], ITEMS[24:]

COLOURS = words_of("red blue green white black brown pink gray")
ROOMS = words_of("kitchen garage hall attic bedroom cellar office garden")
DAYS = words_of("monday tuesday wednesday thursday friday saturday sunday")
ADJECTIVES = words_of("blue quiet golden happy little silent broken early warm lonely sweet dark")
NOUNS = words_of("river moon street dream garden train summer heart road window dance rain")

CATEGORIES = {
    "animal": words_of("dog cat horse cow pig goat lion bear wolf fox mouse duck"),
    "fruit": words_of("apple pear plum grape lemon melon cherry mango peach banana orange fig"),
    "vehicle": words_of("car bus train plane boat truck tram bike van taxi ship wagon"),
    "metal": words_of("iron gold silver copper tin zinc lead nickel steel brass bronze chrome"),
    "sport": words_of("tennis golf hockey boxing rowing judo polo rugby soccer skiing chess darts"),
    "drink": words_of("water milk tea coffee juice beer wine cola cider cocoa soda punch"),
    "tree": words_of("oak pine birch elm ash maple cedar willow palm beech fir yew"),
    "music tool": words_of(
        "piano guitar drum flute violin harp trumpet horn organ banjo cello tuba"
    ),
}


@dataclass(frozen=True)
class Relation:
    """A kind of fact. `says` and `asks` are base-corpus wordings, `quiz` the mcq app's own."""

    pairs: tuple[tuple[str, str], ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]
    quiz: tuple[str, ...] = ()


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Read 'subject: answer, subject: answer, …'."""
    rows = (row.split(":") for row in text.split(","))
    return tuple((left.strip(), right.strip()) for left, right in rows)


# The mcq app asks about none of these.
CHOICE_RELATIONS = {
    "colour": Relation(
        _pairs(
            "lemon: yellow, snow: white, coal: black, grass: green, sky: blue, blood: red, "
            "carrot: orange, mud: brown, plum: purple, ash: gray, cherry: red, leaf: green, "
            "milk: white, banana: yellow, night: black, sea: blue"
        ),
        ("The colour of {s} is {a}.", "{s} is {a}.", "Most people say that {s} looks {a}."),
        ("What colour is {s}?", "Which colour has {s}?", "Tell the colour of {s}."),
    ),
    "sound": Relation(
        _pairs(
            "dog: barks, cat: purrs, cow: moos, duck: quacks, lion: roars, bee: buzzes, "
            "snake: hisses, horse: neighs, pig: grunts, wolf: howls, owl: hoots, hen: clucks"
        ),
        ("The {s} {a}.", "A {s} often {a}.", "When you meet a {s}, it {a}."),
        ("What does a {s} do?", "Which sound belongs to the {s}?", "How does the {s} sound?"),
    ),
    "capital": Relation(
        _pairs(
            "France: Paris, Spain: Madrid, Italy: Rome, Japan: Tokyo, Egypt: Cairo, Peru: Lima, "
            "Cuba: Havana, Norway: Oslo, Greece: Athens, Austria: Vienna, Russia: Moscow, "
            "China: Beijing, Kenya: Nairobi, Poland: Warsaw"
        ),
        ("The capital of {s} is {a}.", "{a} is the main city of {s}.", "{s} is ruled from {a}."),
        ("What is the capital of {s}?", "Name the main city of {s}.", "From where is {s} ruled?"),
    ),
}

# Stated and asked openly in the base corpus, and every third fact in lettered form there, in
# the wordings of `asks`. The wordings of `quiz` are the mcq app's alone.
QUIZ_RELATIONS = {
    "use": Relation(
        _pairs(
            "cut bread: knife, sweep the floor: broom, write a letter: pen, open a lock: key, "
            "bake a cake: oven, tell the time: clock, light a room: lamp, wash hands: soap, "
            "sew a shirt: needle, hit a nail: hammer, cut wood: saw, paint a wall: brush, "
            "drink tea: cup, eat soup: spoon, tie a boat: rope, climb a roof: ladder, "
            "find a road: map, dry the skin: towel, boil rice: pot, catch fish: net, "
            "dig a hole: shovel, fix the hair: comb, call the class: bell, weigh flour: scale"
        ),
        ("To {s}, people use a {a}.", "A {a} helps to {s}.", "If you must {s}, take the {a}."),
        ("What helps to {s}?", "Which thing do people take to {s}?", "How do people {s}?"),
        (
            "What would you need to {s}?",
            "You want to {s}. What do you look for?",
            "Someone has to {s}. What is missing?",
            "To {s}, what do you pick up?",
        ),
    ),
    "home": Relation(
        _pairs(
            "bee: hive, bird: nest, fish: lake, dog: kennel, horse: stable, spider: web, "
            "cow: barn, pig: sty, lion: den, bear: cave, mole: tunnel, shark: sea, "
            "camel: desert, monkey: jungle, frog: pond, crab: beach, owl: oak, hen: coop, "
            "penguin: ice, ant: hill, otter: river, deer: forest, rabbit: burrow, sheep: meadow"
        ),
        ("The {s} lives in the {a}.", "A {s} has its home in the {a}.", "In the {a} is a {s}."),
        ("Where does a {s} live?", "Name the home of the {s}.", "Where is the home of a {s}?"),
        (
            "Where would you look for a {s}?",
            "A {s} goes to sleep. Where is it most likely?",
            "You hear a {s}. Where are you?",
            "Which place would a {s} choose?",
        ),
    ),
    "job": Relation(
        _pairs(
            "teacher: school, doctor: hospital, cook: kitchen, farmer: field, judge: court, "
            "actor: theater, sailor: ship, pilot: plane, baker: bakery, miner: mine, "
            "priest: church, reader: library, clerk: office, waiter: cafe, guard: prison, "
            "barber: salon, banker: bank, gardener: garden, swimmer: pool, singer: stage, "
            "soldier: camp, painter: studio, butler: palace, chemist: lab"
        ),
        ("The {s} works in the {a}.", "Every {s} has work in a {a}.", "In the {a} works a {s}."),
        ("Where does a {s} work?", "Name the work place of the {s}.", "Where is the {s} at work?"),
        (
            "Where do you meet a {s}?",
            "A {s} leaves home to go to work. Where to?",
            "Today the {s} is busy. In which place?",
            "Which place needs a {s}?",
        ),
    ),
    "material": Relation(
        _pairs(
            "window: glass, book: paper, ring: gold, shirt: cotton, tire: rubber, sweater: wool, "
            "boot: leather, coin: copper, bridge: steel, chair: wood, candle: wax, brick: clay, "
            "statue: marble, can: tin, bottle: plastic, cheese: milk, bread: flour, wine: grapes, "
            "jam: berries, tent: canvas, scarf: silk, road: tar, mirror: silver, snowman: snow"
        ),
        ("The {s} is made of {a}.", "From {a} one makes a {s}.", "A {s} is mostly {a}."),
        ("What is a {s} made of?", "Name the stuff of a {s}.", "From what is the {s} made?"),
        (
            "To make a {s}, what do you buy?",
            "A {s} breaks. What is on the ground?",
            "Without what is there no {s}?",
            "What do you touch when you touch a {s}?",
        ),
    ),
    "opposite": Relation(
        _pairs(
            "hot: cold, big: small, fast: slow, up: down, day: night, wet: dry, old: young, "
            "hard: soft, full: empty, rich: poor, open: closed, early: late, loud: quiet, "
            "light: dark, high: low, long: short, happy: sad, clean: dirty, strong: weak, "
            "near: far, thick: thin, first: last, sweet: sour, win: lose"
        ),
        ("The opposite of {s} is {a}.", "What is not {s} is {a}.", "{s} and {a} are opposites."),
        ("What is the opposite of {s}?", "Name the opposite of {s}.", "What is it if not {s}?"),
        (
            "Which word means the reverse of {s}?",
            "It was {s}, then it changed. How is it now?",
            "Someone says {s} but means the other. Which?",
            "What is far from {s}?",
        ),
    ),
    "part": Relation(
        _pairs(
            "tree: branch, bird: wing, fish: fin, car: wheel, house: roof, book: page, "
            "shirt: sleeve, flower: petal, elephant: trunk, rose: thorn, crab: claw, "
            "guitar: string, ship: mast, foot: toe, hand: finger, face: nose, computer: screen, "
            "knife: blade, bicycle: pedal, door: hinge, turtle: shell, egg: yolk, "
            "cat: whisker, plane: engine"
        ),
        ("A {s} has a {a}.", "The {a} is a part of the {s}.", "On each {s} you see a {a}."),
        ("What is a part of a {s}?", "Name a part of the {s}.", "What do you see on a {s}?"),
        (
            "What does a {s} come with?",
            "Someone draws a {s}. What must be in it?",
            "What is missing on a {s} that broke?",
            "What makes the {s} whole?",
        ),
    ),
}
