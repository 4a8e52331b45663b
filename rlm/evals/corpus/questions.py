"""Questions in the six coarse classes of TREC. Their labels are certain, because no pattern belongs to two classes.

They come from patterns and word lists, so nothing is downloaded and no data set is copied. They are easier to label than
questions that people wrote. The real TREC file can replace them.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError

from .seeded_random import SeededRandom
from .words import listed

ABBR, DESC, ENTY, HUM, LOC, NUM = "ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"
NAMES: Final = {
    ABBR: "abbreviation",
    DESC: "description and abstract concept",
    ENTY: "entity",
    HUM: "human being",
    LOC: "location",
    NUM: "numeric value",
}
LABELS: Final = tuple(NAMES.values())
MAX_PER_PATTERN: Final = 70  # questions, so that no pattern dominates its class


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # compared by identity, as the key of a cache
class Questions:
    """Labelled questions.

    Attributes:
        by_label: questions in a fixed order, by the full name of their label.
        label_of: the full name of a question's label.
    """

    by_label: Mapping[str, tuple[str, ...]]
    label_of: Mapping[str, str]


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


_SLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "country": _phrases(
        """Argentina, Australia, Austria, Bangladesh, Belgium, Bolivia, Brazil, Bulgaria, Cambodia, Canada, Chile, China,
        Colombia, Croatia, Cuba, Denmark, Ecuador, Egypt, Estonia, Ethiopia, Finland, France, Germany, Ghana, Greece,
        Hungary, Iceland, India, Indonesia, Ireland, Italy, Jamaica, Japan, Jordan, Kenya, Latvia, Lithuania, Malaysia,
        Mexico, Mongolia, Morocco, Nepal, Norway, Pakistan, Panama, Peru, Poland, Portugal, Romania, Senegal, Slovenia,
        Spain, Sweden, Thailand, Tunisia, Turkey, Uganda, Ukraine, Uruguay, Vietnam, Zambia"""
    ),
    "city": _phrases(
        """Amsterdam, Athens, Bangkok, Barcelona, Berlin, Bogota, Boston, Bremen, Brussels, Budapest, Cairo, Chicago,
        Cologne, Copenhagen, Dallas, Denver, Dublin, Edinburgh, Florence, Geneva, Hamburg, Hanoi, Havana, Helsinki,
        Istanbul, Krakow, Kyoto, Lima, Lisbon, London, Lyon, Madrid, Manila, Melbourne, Milan, Montreal, Munich, Nairobi,
        Naples, Osaka, Oslo, Paris, Prague, Quito, Riga, Rome, Seattle, Seville, Sofia, Stockholm, Sydney, Tokyo, Toronto,
        Turin, Venice, Vienna, Vilnius, Warsaw, Zagreb, Zurich"""
    ),
    "animal": listed(
        """badger bat bear beaver bison buffalo camel cat cheetah cow crab crane crocodile crow deer dolphin donkey eagle
        falcon ferret fox frog giraffe goat goose gorilla hamster hare hawk hedgehog heron horse hyena jaguar kangaroo
        koala leopard lion lizard llama lobster lynx magpie mole moose mouse otter owl panda parrot pelican penguin
        rabbit raccoon salmon seal shark sheep snail squirrel stork swan tiger tortoise walrus weasel whale wolf zebra"""
    ),
    "invention": _phrases(
        """telephone, steam engine, sewing machine, bicycle, printing press, light bulb, microscope, telescope, barometer,
        typewriter, zipper, safety pin, parachute, helicopter, hot air balloon, diesel engine, refrigerator, dishwasher,
        vacuum cleaner, ballpoint pen, fountain pen, wristwatch, thermometer, stethoscope, elevator, escalator, tractor,
        lawn mower, motorcycle, submarine, radio, camera, phonograph, telegraph, toothbrush, umbrella, windmill, compass,
        piano, saxophone, accordion, chess clock, paper clip, pocket calculator, transistor, laser, pacemaker"""
    ),
    "role": _phrases(
        """king, queen, president, prime minister, emperor, finance minister, chief justice, astronaut, ambassador,
        army general, national poet, foreign minister, opera singer, chess champion, football coach"""
    ),
    "work": _phrases(
        """Moonlight Sonata, Mona Lisa, Divine Comedy, Magic Flute, Iliad, Odyssey, Communist Manifesto, Starry Night,
        Four Seasons, Jungle Book, Time Machine, Origin of Species, Blue Danube, Last Supper, Ninth Symphony, Flying
        Dutchman, Nutcracker, Canterbury Tales, Aeneid, Birth of Venus, Water Music, Barber of Seville, Night Watch,
        Wealth of Nations, Art of War, Raven, Tempest, Cherry Orchard, Wild Duck, Kiss"""
    ),
    "landmark": _phrases(
        """Eiffel Tower, Brandenburg Gate, Taj Mahal, Colosseum, Golden Gate Bridge, Statue of Liberty, Leaning Tower, Great
        Sphinx, Parthenon, Alhambra, Louvre, Prado Museum, Hermitage, Suez Canal, Panama Canal, Kremlin, Tower Bridge,
        Sistine Chapel, Great Barrier Reef, Grand Canyon, Angkor Wat, Machu Picchu, Stonehenge, Space Needle, Hoover Dam,
        Pergamon Altar, Blue Mosque, Sydney Opera House, Little Mermaid, Atomium"""
    ),
    "river": _phrases(
        """Danube, Rhine, Elbe, Oder, Seine, Loire, Rhone, Thames, Severn, Tagus, Ebro, Po, Tiber, Vistula, Volga, Don,
        Dnieper, Nile, Niger, Congo, Zambezi, Ganges, Indus, Mekong, Yangtze, Amur, Ob, Lena, Yenisei, Amazon, Orinoco,
        Parana, Mississippi, Missouri, Hudson, Yukon, Colorado, Murray, Darling, Jordan"""
    ),
    "mineral": listed(
        """amber basalt bauxite chalk coal cobalt copper diamond emerald flint garnet gold granite graphite gypsum iron jade
        lead limestone lithium malachite marble mercury mica nickel obsidian opal platinum pumice quartz ruby salt sapphire
        silver slate sulfur tin topaz turquoise zinc"""
    ),
    "event": _phrases(
        """French Revolution, Russian Revolution, Boer War, Crimean War, Hundred Years' War, Thirty Years' War, Battle of
        Waterloo, Battle of Hastings, Great Fire of London, Boston Tea Party, Black Death, gold rush in California, first
        moon landing, fall of the Berlin Wall, sinking of the Titanic, eruption of Krakatoa, Congress of Vienna, signing of
        the Magna Carta, first Olympic Games in Athens, Prague Spring, Meiji Restoration, Battle of Trafalgar, Suez Crisis,
        Peace of Westphalia, Spanish Civil War, Irish potato famine, opening of the Suez Canal, siege of Leningrad"""
    ),
    "phenomenon": _phrases(
        """thunder, hail, fog, rainbows, earthquakes, tides, the northern lights, solar eclipses, tsunamis, avalanches,
        hiccups, yawning, sneezing, inflation, rust, static electricity, acid rain, droughts, sunburn, food poisoning,
        migraine, colour blindness, insomnia, dandruff, altitude sickness, snoring, hay fever, freckles, seasickness"""
    ),
    "skill": _phrases(
        """tie a bow tie, bake sourdough bread, play the harmonica, change a bicycle tyre, prune an apple tree, remove a wine
        stain, sharpen a kitchen knife, build a snow cave, read a tide table, write a sonnet, fold a paper crane, make
        candles, keep bees, carve a pumpkin, clean a chimney, dye wool, brew ginger beer, solve a crossword, wax a surfboard,
        tune a violin, graft a rose, smoke a trout, whistle with two fingers, saddle a horse, press flowers, plaster a wall,
        season a cast iron pan, repair a puncture, juggle three balls, pickle cucumbers"""
    ),
    "word": _phrases(
        """serendipity, ubiquitous, ephemeral, gregarious, obsolete, candid, austere, benevolent, cryptic, diligent,
        eloquent, frugal, hapless, idyllic, jovial, lucid, meticulous, nostalgia, opaque, pragmatic, quaint,
        resilient, stoic, tacit, utopia, vivacious, whimsical, zealous, ambiguous, brevity, catharsis, dilemma,
        empathy, facetious, hubris, irony, juxtaposition, kinetic, lethargy, melancholy"""
    ),
    "food": listed(
        """apples bananas beans beetroot bread butter cabbage carrots cheese cherries chocolate coconuts coffee dates eggs
        figs garlic ginger grapes honey lemons lentils mangoes maize milk mushrooms mustard oats olives onions oranges
        paprika peanuts pears pepper plums potatoes raisins rice saffron spinach sugar tea tomatoes vanilla vinegar walnuts
        wheat yoghurt"""
    ),
    "sport": listed(
        """archery badminton baseball basketball billiards boxing cricket croquet curling cycling darts fencing football golf
        gymnastics handball hockey judo lacrosse netball polo rowing rugby sailing skiing snooker squash swimming tennis
        volleyball wrestling"""
    ),
    "abbreviation": listed(
        """AIDS ASAP ATM BBC BMX CAD CBS CEO CIA CNN CPR CPU CRT DDT DNA DOS DVD ECG EEG ESP FAO FAQ FBI FIFA GDP GMT GNP GPS
        HDTV HIV HTML HTTP IBM ICBM ILO IMF IOC IOU IQ IRA IRS ISBN ISO JPEG KGB LAN LASER LCD LED LPG LSD MBA MIT MRI MTV
        NAFTA NASA NATO NBA NBC NFL NGO NHL OECD OPEC PDF PIN PVC RADAR RAM RAF RNA ROM RPM RSVP SALT SCUBA SIM SMS SONAR
        SOS SPF SWAT TNT UFO UHF UNESCO UNICEF URL USB VAT VCR VIP WHO WTO YMCA ZIP"""
    ),
    "abbreviated": _phrases(
        """kilometres per hour, miles per gallon, Bachelor of Arts, Doctor of Philosophy, post script, limited company,
        European Union, United Nations, South Carolina, New Mexico, Massachusetts, Pennsylvania, et cetera, for example,
        that is, ante meridiem, post meridiem, anno Domini, square metre, cubic centimetre, horsepower, kilowatt hour,
        revolutions per minute, gross domestic product, personal identification number, compact disc, frequency modulation,
        amplitude modulation, alternating current, direct current, parts per million, chief executive officer, curriculum
        vitae, estimated time of arrival, do it yourself, unidentified flying object, very important person, date of birth"""
    ),
}

_PATTERNS: Final[Mapping[str, tuple[str, ...]]] = {
    ABBR: (
        "What does {abbreviation} stand for ?",
        "What is the full form of {abbreviation} ?",
        "What do the letters {abbreviation} stand for ?",
        "{abbreviation} is an abbreviation of which words ?",
        "What words does the acronym {abbreviation} come from ?",
        "What is the abbreviation for {abbreviated} ?",
        "How is {abbreviated} abbreviated ?",
        "What letters are used as the short form of {abbreviated} ?",
    ),
    DESC: (
        "Why do people say that the {animal} brings good luck ?",
        "What does the word {word} mean ?",
        "What is the origin of the word {word} ?",
        "How do you {skill} ?",
        "What is the best way to {skill} ?",
        "What causes {phenomenon} ?",
        "How can one explain {phenomenon} to a child ?",
        "How does the {invention} work ?",
        "What was the reason for the {event} ?",
        "Why was the {event} important ?",
        "What is the difference between the wild {animal} and the tame one ?",
        "Why do doctors recommend {food} ?",
        "How is {mineral} formed ?",
        "What is the history of {sport} ?",
    ),
    ENTY: (
        "What is the national flower of {country} ?",
        "What is the national bird of {country} ?",
        "What language is spoken in the villages of {country} ?",
        "What currency is used in {country} ?",
        "What colours are on the flag of {country} ?",
        "What musical instrument is typical of {country} ?",
        "What is the favourite food of the {animal} ?",
        "What disease is carried by the {animal} ?",
        "Which plant does the {animal} eat most of all ?",
        "What vitamin is found in {food} ?",
        "What dish is made from {food} and flour ?",
        "What colour is {mineral} ?",
        "What tool is used to cut {mineral} ?",
        "What kind of ball is used in {sport} ?",
    ),
    HUM: (
        "Who invented the {invention} ?",
        "Who was granted the first patent for the {invention} ?",
        "Who was the first {role} of {country} ?",
        "Who was the youngest {role} in the history of {country} ?",
        "What {role} of {country} was born in {city} ?",
        "Who is the author or creator of the {work} ?",
        "Who was the teacher of the creator of the {work} ?",
        "Who designed the {landmark} ?",
        "Which actor played the hero in the film about the {event} ?",
        "Who led the losing side in the {event} ?",
        "Who is known as the father of modern {sport} ?",
        "Who was the mayor of {city} during the {event} ?",
        "Name the explorer who first sailed up the {river} .",
    ),
    LOC: (
        "Where is the {landmark} ?",
        "In which city can one visit the {landmark} ?",
        "What is the capital of {country} ?",
        "What is the largest city in {country} ?",
        "What is the highest mountain in {country} ?",
        "What countries border {country} ?",
        "On which continent is {country} ?",
        "Where does the {river} rise ?",
        "Into which sea does the {river} flow ?",
        "Where is {mineral} mined ?",
        "Where does the {animal} live in the wild ?",
        "Where did the {event} take place ?",
        "Which country produces the most {food} ?",
        "Where was the first world championship in {sport} held ?",
    ),
    NUM: (
        "How many people live in {city} ?",
        "What is the population of {country} ?",
        "When did {country} become independent ?",
        "How far is it from {city} to the sea ?",
        "How many bones does the {animal} have ?",
        "How fast can the {animal} run or swim ?",
        "How much does a newborn {animal} weigh ?",
        "In what year was the {invention} patented ?",
        "What year did the {event} begin ?",
        "How long did the {event} last ?",
        "How long is the {river} ?",
        "How tall is the {landmark} ?",
        "How many players are on a team in {sport} ?",
        "How many calories are there in a pound of {food} ?",
        "At what temperature does {mineral} melt ?",
    ),
}


@functools.cache
def built_in() -> Questions:
    """The built-in questions, 460 to 780 of each class."""
    return _labelled(
        [
            (label, question)
            for label, patterns in _PATTERNS.items()
            for pattern in patterns
            for question in _all(pattern)
        ]
    )


def _all(pattern: str) -> list[str]:
    slots = list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(pattern) if name))
    made = [
        pattern.format(**dict(zip(slots, words, strict=True))) for words in product(*(_SLOTS[slot] for slot in slots))
    ]
    return made if len(made) <= MAX_PER_PATTERN else SeededRandom("questions", pattern).sample(made, MAX_PER_PATTERN)


def read_trec(path: Path) -> Questions:
    """The questions of a TREC file, whose lines are `LABEL:kind question`. Omits questions with two labels.

    Raises:
        ConfigError: the file is unreadable or malformed, or a class has no question.
    """
    try:
        lines = path.read_bytes().decode("latin-1").splitlines()  # the original has a few bytes that are not UTF-8
    except OSError as error:
        raise ConfigError(f"Cannot read the TREC file {path} ({error.strerror}).") from error
    labelled = []
    for number, line in enumerate(lines, 1):
        head, _, question = line.strip().partition(" ")
        label = head.partition(":")[0]
        if line.strip() and (label not in NAMES or not question):
            raise ConfigError(f"{path}, line {number}: expected `LABEL:kind question`.")
        if line.strip():
            labelled.append((label, question.strip()))
    found = _labelled(labelled)
    for label, name in NAMES.items():
        if not found.by_label[name]:
            raise ConfigError(f"{path} has no question of the class {label}.")
    return found


def _labelled(pairs: list[tuple[str, str]]) -> Questions:
    """The questions that have a single label."""
    labels: dict[str, set[str]] = {}
    for label, question in pairs:
        labels.setdefault(question, set()).add(label)
    label_of = {question: NAMES[min(found)] for question, found in labels.items() if len(found) == 1}
    by_label: dict[str, list[str]] = {label: [] for label in LABELS}
    for question, label in label_of.items():
        by_label[label].append(question)
    return Questions(by_label={label: tuple(found) for label, found in by_label.items()}, label_of=label_of)
