"""Word lists of the generated texts, typed for this project: plain English words and invented names."""

from __future__ import annotations

from typing import Final


def listed(text: str) -> tuple[str, ...]:
    """The words of a text, as a tuple."""
    return tuple(text.split())


ADJECTIVES: Final = listed(
    """
    able agile amber ancient arid autumnal awake balanced bare bashful bitter blank bleak blithe bold brave brief bright
    brisk broad brown bumpy busy calm candid careful cheerful chilly civil clean clear clever cloudy coarse cold common
    compact cool cosy crimson crisp curious curly daring dark dear deep dense dim distant dizzy double dry dull eager
    early earnest easy elder elegant empty even exact faint fair faithful famous fancy fast fearless fierce fine firm
    flat fluent fond frail frank free fresh frosty frugal full funny gentle giant glad gleaming golden good graceful
    grand grave great green grey handy happy hardy harsh hasty hearty heavy helpful hidden high hollow honest humble icy
    idle jolly just keen kind large late lazy lean light lively lofty lonely long loud loyal lucky mellow merry mighty
    mild misty modest narrow neat nimble noble odd old open orderly pale patient plain pleasant polite proud pure quick
    quiet rapid rare ready rich ripe robust rosy rough round royal rustic sandy sharp shiny short shy silent silver
    simple sleek slender slow small smooth snug sober soft solid sound sour stable stark steady steep stern still stout
    strange strict strong sturdy subtle sudden sunny sweet swift tall tame tender thick thin tidy tiny tough tranquil
    true upright vast violet vivid warm wary white wide wild wise witty young zealous
    """
)
NOUNS: Final = listed(
    """
    acorn almond anchor anvil apple arch arrow attic badge bakery balcony bamboo banner barge barley barn barrel basin
    basket beacon beam bell bench berry birch blanket blossom boat bonfire bottle boulder bowl branch brick bridge brook
    broom bucket button cabin cable cactus candle canoe canyon carpet cart castle cave cedar cellar chain chair chalk
    chapel cherry chest chimney circle clay cliff clock cloud clover coast coat compass copper coral corner cottage
    cradle crane crate creek crown crystal cup curtain dairy dam desk dial ditch dock dome door dove drum dune eagle
    easel elbow elm ember engine falcon farm feather fence fern ferry field finch flag flame flask flint flute forest
    forge fossil fountain fox frame garden garland gate geyser glacier glove goat granary grape grove gull hammer harbor
    harp hawk hazel heath hedge helmet heron hill hinge hive honey horn inlet island ivy jar jetty jug juniper kettle
    key kiln kite ladder lagoon lake lamp lane lantern larch lark ledge lemon lever library lily linen lock loom magnet
    mallet maple marble market marsh mast meadow medal mill mirror mortar moss mountain nail needle nest net oak oar
    oasis ocean olive orchard otter oven owl paddle palace panel paper parcel path pear pebble pencil pendulum pepper
    piano pier pigeon pillar pillow pine pipe planet plank plaza plough plum pocket pond porch pot prairie prism pump
    quarry quill quilt raft rail raven reed reef ribbon ridge ring river road robin roof rope rudder saddle sail sand
    scarf school shed shelf shell ship shovel shrub sickle signal slate sledge spade spark sparrow spindle spoon spring
    stair star stone stove stream street sundial swan table tail tent terrace thicket thimble thistle tile timber torch
    tower trail tree trellis trumpet tunnel valley vase velvet village vine violin wagon wall walnut wave well wharf
    wheat wheel whistle willow window wing winter wool yard
    """
)
FIRST_NAMES: Final = listed(
    """
    Abel Ada Adele Agnes Alma Amos Anita Anton Arno Astrid Basil Beate Bela Berta Boris Bruno Carla Cedric Clara Conrad
    Cora Cyril Dagmar Daria Dario Delia Dora Edda Edgar Edith Egon Elena Elias Elsa Emil Emma Erika Ernst Esther Eva
    Fabio Felix Fiona Flora Frida Gero Gerda Gino Greta Gustav Hanna Hedda Helga Hugo Ida Ines Inga Irma Ivan Ivo Jana
    Jonas Judith Karin Karl Klara Knut Lara Lars Laura Lea Leon Lena Leo Lotte Luis Luka Lydia Magda Marek Mara Marta
    Milan Mila Mina Nadia Nelly Nils Nina Nora Olaf Olga Oscar Otto Paula Petra Pia Quentin Rita Roman Rosa Rudi Ruth
    Sara Selma Sonja Stella Tamara Thea Theo Tilda Uwe Vera Victor Viola Walter Wanda Xenia Yara Yvonne Zita
    """
)
LAST_NAMES: Final = listed(
    """
    Abendrot Almgren Amberly Arkwell Aschbach Balmforth Barrowby Bellamont Birkholm Blackmere Borowin Brandvik Brookhart
    Calloway Carrick Castellan Cresswell Dahlquist Darnell Delacroy Dornfeld Drummel Eastbrook Eichholt Elverton
    Engstrom Fairburn Falkenau Farrowby Fenwick Fjordal Galbrant Garrick Glenholm Grimshaw Grunwald Hallowell Harrowgate
    Hartvig Haverlock Hellstrom Hollander Holmqvist Ironside Jankovar Jarnefelt Kaltenbrun Kestrel Kirkwall Kobrin
    Lachlann Langmere Larkwood Lindgarth Lockhart Lundby Maddocks Malmstrom Marchbank Merriweth Middlecote Mirovan
    Moorcroft Nachtigall Nettleham Nordvall Oakhurst Obersted Orlowin Ostergard Pemberly Pfaffen Polgarth Quennell
    Radovin Ravnsborg Redgrove Ridderholm Rosenvik Rutherglen Sandoval Sarkady Selwick Silberfeld Skarsgard Sommerlath
    Stavrin Stonebridge Sundgaard Tallbot Tennward Thornbury Tolvanen Trelawn Umbridge Underhill Valkmar Vandermeer
    Vestergren Wainscott Waldeck Westergaard Wetherby Wolfgart Yarrowby Zelenka Zimmerlin
    """
)
PLACE_STARTS: Final = listed(
    """
    Ald Arn Bar Bel Bern Bran Brim Cald Car Cor Dal Dorn Drav Eld Elm Fal Fern Gal Glen Gran Hal Harn Hol Ister Jor Kal
    Kern Kol Lan Lind Lor Mal Mar Mer Mor Nar Nord Ol Or Pel Por Quar Ran Ros Sal Sel Sor Stan Tal Tor Ul Val Ver Vin
    Wal West Wil Yar Zal Zor
    """
)
PLACE_ENDS: Final = listed(
    """
    aby ach ada agen ana ano avia beck berg borg bridge bury by cliff dale dam den don dorf drup eck ela field ford gard
    garth grad ham haven heim holm hurst ica ina ing itz ivo land ley lund mark mere minster mond mont mouth nau ness
    oby ona ossa port ris rock rup sand sted stad stock thal ton ville wald wick worth zell
    """
)
