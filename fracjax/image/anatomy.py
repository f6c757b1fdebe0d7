"""Body parts: the terms that are used, and what of a header names them.

BodyPartExamined is often absent, generic or wrong, so that several elements are asked in turn. The
vocabulary holds the terms of PS3.16 Annex L, what vendors write instead, and the usual words of
several languages. Texts are searched for its words, and never passed on.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType


class BodyPart(StrEnum):
    """A body part as used. The values are stable: they stand in tables and bundles."""

    FINGER = "finger"
    HAND = "hand"
    WRIST = "wrist"
    FOREARM = "forearm"
    ELBOW = "elbow"
    HUMERUS = "humerus"
    SHOULDER = "shoulder"
    CLAVICLE = "clavicle"
    UPPER_LIMB = "upper_limb"
    PELVIS = "pelvis"
    HIP = "hip"
    FEMUR = "femur"
    KNEE = "knee"
    LEG = "leg"
    ANKLE = "ankle"
    FOOT = "foot"
    TOE = "toe"
    LOWER_LIMB = "lower_limb"
    EXTREMITY = "extremity"
    SKULL = "skull"
    FACE = "face"
    JAW = "jaw"
    TEETH = "teeth"
    NECK = "neck"
    SPINE = "spine"
    CHEST = "chest"
    RIBS = "ribs"
    BREAST = "breast"
    ABDOMEN = "abdomen"
    WHOLE_BODY = "whole_body"
    PHANTOM = "phantom"


_UPPER = frozenset(
    {
        BodyPart.FINGER,
        BodyPart.HAND,
        BodyPart.WRIST,
        BodyPart.FOREARM,
        BodyPart.ELBOW,
        BodyPart.HUMERUS,
        BodyPart.SHOULDER,
        BodyPart.CLAVICLE,
        BodyPart.UPPER_LIMB,
    }
)
_LOWER = frozenset(
    {
        BodyPart.PELVIS,
        BodyPart.HIP,
        BodyPart.FEMUR,
        BodyPart.KNEE,
        BodyPart.LEG,
        BodyPart.ANKLE,
        BodyPart.FOOT,
        BodyPart.TOE,
        BodyPart.LOWER_LIMB,
    }
)
LIMBS = _UPPER | _LOWER | {BodyPart.EXTREMITY}
"""The limbs with their girdles: clavicle, scapula, hip and pelvis are in."""

_GENERIC: Mapping[BodyPart, frozenset[BodyPart]] = {
    BodyPart.UPPER_LIMB: _UPPER - {BodyPart.UPPER_LIMB},
    BodyPart.LOWER_LIMB: _LOWER - {BodyPart.LOWER_LIMB},
    BodyPart.EXTREMITY: LIMBS - {BodyPart.EXTREMITY},
}
"""What a generic term stands for, narrowest first."""

SCOPES: Mapping[str, frozenset[BodyPart]] = MappingProxyType(
    {
        # Its regions are wide: "hand" runs from the fingers to the elbow, "leg" from the toes to
        # the knee, "shoulder" shows the clavicle and "hip" the pelvis; an upper arm is marked hand
        # and shoulder, a thigh leg and hip.
        "frac_atlas": LIMBS,
        # Seven kinds of study, all of the upper limb, none of the clavicle alone.
        "mura": _UPPER - {BodyPart.CLAVICLE} | {BodyPart.EXTREMITY},
        # Wrists of children, which show the distal forearm.
        "grazpedwri_dx": frozenset(
            {BodyPart.WRIST, BodyPart.FOREARM, BodyPart.UPPER_LIMB, BodyPart.EXTREMITY}
        ),
        # Slices of CT: what is read as a radiograph is never one.
        "rsna_cervical_spine": frozenset({BodyPart.SPINE, BodyPart.NECK}),
        # Only its images can tell; none means any.
        "own_images": frozenset(),
    }
)
"""By data set, the body parts that a model trained on it has seen."""


def scope_of(data_set: str, body_parts: Iterable[str]) -> frozenset[BodyPart]:
    """Tell what a model of a data set is meant for.

    Args:
        data_set: A key of :data:`SCOPES`.
        body_parts: Of the images learned from, as the feature schema has them. They count where
            the data set has no scope of its own.

    Returns:
        Terms, generic ones that stand for one of them included; empty means any body part.
    """
    texts = set(body_parts)
    if SCOPES[data_set] or "" in texts:
        return SCOPES[data_set]
    parts = {BodyPart(part) for text in texts for part in text.split("+")}
    return frozenset(parts | {generic for generic, of in _GENERIC.items() if of & parts})


_CODES: Mapping[BodyPart, str] = {
    BodyPart.FINGER: "7569003 T-D8800 76505004 T-D8810 125682004 T-15516",
    BodyPart.HAND: "85562004 T-D8700 24097009 T-12600",
    BodyPart.WRIST: "74670003 T-15460 8205005 T-D8600",
    BodyPart.FOREARM: "14975008 T-D8500 55797009 T-12402 62413002 T-12420 12881000 T-1242A "
    "47728000 T-12423 75129005 T-1242B 23416004 T-12430 34318004 T-1243A 21133008 T-12435 "
    "91238003 T-1243B",
    BodyPart.ELBOW: "16953009 T-15430 76248009 T-D8300",
    BodyPart.HUMERUS: "85050009 T-12410 40983000 T-D8200 119524001 T-1240F 20760004 T-12412 "
    "118495001 T-1241F",
    BodyPart.SHOULDER: "16982005 T-D2220 79601000 T-12280 85856004 T-15420 91470000 T-D8104",
    BodyPart.CLAVICLE: "51299004 T-12310 7844006 T-15610",
    BodyPart.UPPER_LIMB: "53120007 T-D8000 371195002 T-D0821 30608006 T-13600",
    BodyPart.PELVIS: "816092008 12921003 T-D6000 118645006 T-12375 22356005 T-12340 39723000 "
    "T-15680 46862004 T-D2600",
    BodyPart.HIP: "29836001 T-D2500 24136001 T-15710 2812003 T-12711 310651003 T-D078C",
    BodyPart.FEMUR: "71341001 T-12710 68367000 T-D9100 41111004 T-12717 310652005 T-D078D",
    BodyPart.KNEE: "72696002 T-D9200 64234005 T-12730 32361000 T-D9310",
    BodyPart.LEG: "30021000 T-D9400 53840002 T-D9440 12611008 T-12740 87342007 T-12750 52687003 "
    "T-12746 64605006 T-1274B",
    BodyPart.ANKLE: "70258002 T-15750 67453005 T-12780",
    BodyPart.FOOT: "56459004 T-D9700 80144004 T-12770 27949001 T-15770 58742003 T-12980",
    BodyPart.TOE: "29707007 T-D9800",
    BodyPart.LOWER_LIMB: "61685007 T-D9000 72001000 T-12700 102292000 T-14668 1231522001",
    BodyPart.EXTREMITY: "66019005 T-D0300",
    BodyPart.SKULL: "89546000 T-11100 69536005 T-D1100 774007 T-D1000 12738006 T-A0100 59066005 "
    "T-11133 42575006 T-D1460 361078006 T-AB959 110517009 T-11011",
    BodyPart.FACE: "89545001 T-D1200 91397008 T-11196 74386004 T-11149 363654007 T-D14AE 371398005 "
    "T-D0801 2095001 T-22000 13881006 T-11166 55024004 T-11102 81745001 T-AA000 45206002 T-21000",
    BodyPart.JAW: "661005 T-D1213 91609006 T-11180 70925003 T-11170 53620006 T-15290",
    BodyPart.TEETH: "38199008 T-54010",
    BodyPart.NECK: "45048000 T-D1600 4596009 T-24100 44567001 T-25000",
    BodyPart.SPINE: "421060004 T-D04FF 280717001 T-D0146 122494005 T-11501 122495006 T-11502 "
    "122496007 T-11503 1217257000 297171002 T-D00F7 1217256009 297172009 T-D00F8 1217253001 "
    "297173004 T-D00F9 1217254007 297174005 T-D00FA 54735007 T-11AD0 64688005 T-11BF0 77568009 "
    "T-D2100",
    BodyPart.CHEST: "816094009 51185008 T-D3000 56873002 T-11210 39607008 T-28000 86598002 T-280A0 "
    "80891009 T-32000 72410000 T-D3300 955009 T-26000 32849002 T-56000 416550000 R-FAB55 "
    "416775004 R-FAB56 417437006 R-FAB52 416152001 R-FAB53 416319003 R-FAB54",
    BodyPart.RIBS: "113197003 T-11300",
    BodyPart.BREAST: "76752008 T-04000",
    BodyPart.ABDOMEN: "818981001 113345001 T-D4000 818982008 416949008 R-FAB57 69695003 T-57000 "
    "71854001 T-59300 14742008 T-59000 30315005 T-58000 64033007 T-71000 89837001 T-74000",
    BodyPart.WHOLE_BODY: "38266002 T-D0010",
    BodyPart.PHANTOM: "706342009 R-FE0C7",
}
"""Codes of SNOMED CT, and of its predecessor SNOMED RT, in PS3.16 (CID 4009, 4031, 7304)."""

_WORDS: Mapping[BodyPart, str] = {
    BodyPart.FINGER: "finger, fingers, thumb, thumbs, daumen, doigt, doigts, pouce, dedo, dedos, "
    "dedo mano, dedo de la mano, dedos de la mano, pulgar, polegar, dito mano, pollice, vinger, "
    "vingers, duim, палец кисти, пальцы кисти, пальцев кисти, palec reki, "
    "parmak, dita mano, dita della mano, 手指, 拇指, 손가락",
    BodyPart.HAND: "hand, hands, hande, main droite, main gauche, mains, mano, manos, mani, "
    "mao, maos, handen, кисть, кисти, кистей, reka, dlon, dłoń, ręka, ręki, ruka, "
    "ruky, metacarpal, metacarpals, "
    "metacarpus, mittelhand, χέρι, 手, 手部, 手掌, 손",
    BodyPart.WRIST: "wrist, wrists, handgelenk, handgelenke, handwurzel, poignet, poignets, "
    "muñeca, muñecas, polso, polsi, punho, punhos, pols, polsen, carpal, carpals, carpus, "
    "scaphoid, лучезапястный, лучезапястного, лучезапястные, лучезапястных, запястье, запястья, "
    "nadgarstek, nadgarstka, zápěstí, el bileği, καρπός, 手関節, 手首, 腕关节, 손목",
    BodyPart.FOREARM: "forearm, forearms, fore arm, lower arm, unterarm, unterarme, avant bras, "
    "antebrazo, antebrazos, avambraccio, antebraço, onderarm, underarm, предплечье, предплечья, "
    "przedramię, przedramienia, předloktí, predlaktie, ön kol, radius, ulna, radius ulna, "
    "radius and ulna, speiche, πήχης, 前腕, 前臂, 전완",
    BodyPart.ELBOW: "elbow, elbows, ellenbogen, ellbogen, ellenbogengelenk, ellbogengelenk, "
    "coude, coudes, codo, codos, gomito, gomiti, cotovelo, cotovelos, elleboog, ellebogen, "
    "armbåge, albue, локоть, локтя, локтевой, локтевого, локтевые, локтевых, łokieć, łokcia, "
    "loket, dirsek, radial head, head of radius, olecranon, αγκώνας, 肘, 肘関節, 肘关节, 팔꿈치",
    BodyPart.HUMERUS: "humerus, humeri, upper arm, upperarm, oberarm, oberarme, bras, brazo, "
    "braccio, omero, húmero, braço, bovenarm, överarm, overarm, плечо, плеча, плечевая кость, "
    "плечевой кости, paže, kość ramienna, kości ramiennej, ramię, 上腕, 上臂, 상완",
    BodyPart.SHOULDER: "shoulder, shoulders, schulter, schultern, schultergelenk, epaule, "
    "épaules, hombro, hombros, spalla, spalle, ombro, ombros, schouder, schouders, "
    "плечевой сустав, плечевого сустава, плечевые суставы, плечевых суставов, bark, barku, "
    "rameno, omuz, scapula, scapulae, schulterblatt, omoplate, escapula, скапула, лопатка, "
    "лопатки, ac joint, ac joints, acjoint, ac gelenk, acromioclavicular, "
    "acromioclavicular joint, humeral head, head of humerus, glenoid, skulder, "
    "ώμος, 肩, 肩関節, 肩关节, "
    "肩部, 어깨, axilla",
    BodyPart.CLAVICLE: "clavicle, clavicles, clavicula, klavikula, schlüsselbein, clavicola, "
    "clavícula, sleutelbeen, ключица, ключицы, obojczyk, obojczyka, nyckelben, sc joint, "
    "sternoclavicular, sternoclavicular joint, 鎖骨, 锁骨, 쇄골",
    BodyPart.UPPER_LIMB: "upper limb, upper limbs, upperlimb, upper extremity, upper extremities, "
    "upperextremity, up exm, upexm, upper ext, up ext, upext, obere extremität, "
    "obere extremitäten, membre supérieur, membres supérieurs, miembro superior, "
    "extremidad superior, arto superiore, arti superiori, membro superior, bovenste extremiteit, "
    "верхняя конечность, верхней конечности, верхние конечности, kończyna górna, arm, arms, рука, "
    "руки, 上肢",
    BodyPart.PELVIS: "pelvis, pelvic, pelvis hip, pelvis hips, becken, beckenübersicht, bassin, "
    "bacino, bacia, bekken, bäcken, bækken, таз, таза, тазовых костей, miednica, miednicy, pánev, "
    "panva, λεκάνη, 骨盤, 骨盆, 골반, sacroiliac, sacroiliac joint, sacroiliac joints, si joint, "
    "si joints, sijoint, ilium, acetabulum, buttock, isg, iliosakralgelenk",
    BodyPart.HIP: "hip, hips, hip joint, hip pelvis, hips pelvis, hips and pelvis, "
    "hip and pelvis, hip w pelvis, hip with pelvis, hüfte, hüften, hüftgelenk, hüftgelenke, "
    "hanche, hanches, cadera, caderas, anca, anche, quadril, heup, heupen, höft, hofte, "
    "тазобедренный, тазобедренного, тазобедренные, тазобедренных, biodro, biodra, staw biodrowy, "
    "kyčel, kalça, femoral neck, neck of femur, femur neck, femoral head, head of femur, "
    "schenkelhals, proximal femur, ισχίο, 股関節, 髋关节, 고관절, collo femore, collo del femore, "
    "col du fémur, col fémoral, cuello femoral, cuello de fémur, шейка бедра, шейки бедра",
    BodyPart.FEMUR: "femur, femurs, femora, thigh, thighs, oberschenkel, fémurs, cuisse, cuisses, "
    "fémur, muslo, femore, coscia, bovenbeen, lår, бедро, бедра, бедренная кость, "
    "бедренной кости, kość udowa, stehno, uyluk, 大腿, 大腿骨, 대퇴",
    BodyPart.KNEE: "knee, knees, knie, knien, kniegelenk, kniegelenke, genou, genoux, rodilla, "
    "rodillas, ginocchio, ginocchia, joelho, joelhos, knieën, knä, knæ, колено, колена, коленный, "
    "коленного, коленные, коленных, kolano, kolana, koleno, diz, patella, patellae, kniescheibe, "
    "rotula, rótula, γόνατο, 膝, 膝関節, 膝关节, 膝盖, 무릎",
    BodyPart.LEG: "leg, lower leg, lower legs, lowerleg, lowleg, unterschenkel, jambe, jambes, "
    "pierna, piernas, gamba, gambe, perna, pernas, onderbeen, underben, голень, голени, podudzie, "
    "podudzia, goleń, bérec, tibia, tibias, fibula, tib fib, tibfib, tibia fibula, "
    "tibia and fibula, tib, schienbein, wadenbein, péroné, peroné, calf, crus, "
    "下腿, 小腿, 하퇴, κνήμη",
    BodyPart.ANKLE: "ankle, ankles, sprunggelenk, oberes sprunggelenk, osg, knöchel, cheville, "
    "chevilles, tobillo, tobillos, caviglia, caviglie, tornozelo, tornozelos, enkel, enkels, "
    "fotled, ankel, голеностопный, голеностопного, голеностопные, голеностопных, лодыжка, "
    "лодыжки, staw skokowy, stawu skokowego, kotník, ayak bileği, talus, malleolus, ποδοκνημική, "
    "足関節, 足首, 踝关节, 발목",
    BodyPart.FOOT: "foot, feet, fuß, füße, vorfuß, mittelfuß, rückfuß, pied, pieds, avant pied, "
    "pies, pie derecho, pie izquierdo, pie der, pie izq, piede, piedi, pé direito, pé esquerdo, "
    "pés, voet, voeten, fot, fod, стопа, стопы, стоп, stopa, stopy, chodidlo, noha, ayak, "
    "calcaneus, calcaneum, os calcis, calcaneo, calcanéum, heel, heels, ferse, fersenbein, "
    "пяточная кость, пяточной кости, пятка, metatarsal, metatarsals, metatarsus, tarsal, tarsus, "
    "forefoot, midfoot, hindfoot, lisfranc, 足, 足部, 발",
    BodyPart.TOE: "toe, toes, hallux, great toe, big toe, zehe, zehen, großzehe, orteil, orteils, "
    "gros orteil, dedo pie, dedo del pie, dedos pie, dedos del pie, dito piede, dito del piede, "
    "dita piede, dita del piede, tenen, палец стопы, пальцы стопы, пальцев стопы, palec stopy, "
    "palce stopy, 足趾, 足指, 발가락",
    BodyPart.LOWER_LIMB: "lower limb, lower limbs, lowerlimb, lower extremity, lower extremities, "
    "pelvis and lower extremities, "
    "lowerextremity, low exm, lowexm, lower ext, low ext, lowext, untere extremität, "
    "untere extremitäten, membre inférieur, membres inférieurs, miembro inferior, "
    "miembros inferiores, extremidad inferior, arto inferiore, arti inferiori, membro inferior, "
    "onderste extremiteit, нижняя конечность, нижней конечности, нижние конечности, "
    "kończyna dolna, legs, both legs, long leg, long legs, full leg, leg length, bein, beine, "
    "ganzbein, ganzbeinaufnahme, нога, ноги, 下肢",
    BodyPart.EXTREMITY: "extremity, extremities, extremety, extrem, extremität, extremitäten, "
    "extrémité, extrémités, extremidad, extremidades, estremità, extremiteit, limb, limbs, "
    "конечность, конечности, kończyna, membres, 四肢",
    BodyPart.SKULL: "skull, head, cranium, cranial, schädel, crâne, cráneo, cranio, crânio, "
    "schedel, skalle, череп, черепа, czaszka, czaszki, lebka, lebky, kafa, brain, cerebrum, kopf, "
    "headneck, head neck, head and neck, tête, cabeza, testa, cabeça, голова, головы, mastoid, "
    "mastoids, sella, sella turcica, ceph, cephalometric, cephalo, fernröntgen, iac, κρανίο, 頭部, "
    "头部, 頭蓋骨, 두부",
    BodyPart.FACE: "facial, facial bones, facialbones, facial bone, nasal, nasal bone, "
    "nasal bones, nose, orbit, orbits, orbita, zygoma, zygomatic, sinus, sinuses, "
    "paranasal sinus, paranasal sinuses, pns, nnh, nasennebenhöhlen, gesichtsschädel, "
    "mittelgesicht, nasenbein, nase, sinus face, blondeau, senos paranasales, spn, "
    "seni paranasali, ппн, придаточные пазухи, придаточных пазух, пазухи носа, пазух носа, "
    "кости носа, костей носа, 顔面",
    BodyPart.JAW: "jaw, jaws, mandible, mandibula, maxilla, tmj, tm joint, temporomandibular, "
    "temporomandibular joint, kiefer, unterkiefer, oberkiefer, kiefergelenk, mâchoire, mandibule, "
    "mandíbula, mandibola, mascella, kaak, челюсть, челюсти, żuchwa, 下顎, 下颌",
    BodyPart.TEETH: "tooth, teeth, dental, dent, dents, dentition, dentes, diente, dientes, "
    "denti, zahn, zähne, gebiss, gebit, pano, panorama, panoramic, panoramique, panoramica, "
    "panorex, opg, orthopantomogram, orthopantomogramm, ortopantomografia, bitewing, bitewings, "
    "periapical, зуб, зубы, зубов, ортопантомограмма, zęby, zuby, 歯, 歯科, 牙",
    BodyPart.NECK: "neck, soft tissue neck, neck soft tissue, cou, cuello, collo, pescoço, nek, "
    "hals, шея, шеи, szyja, larynx, pharynx, trachea, 頸部, 颈部",
    BodyPart.SPINE: "spine, spinal, cspine, tspine, lspine, lsspine, ctspine, tlspine, sspine, "
    "c spine, t spine, l spine, ls spine, tl spine, s spine, d spine, dspine, cerv spine, "
    "cervical spine, thoracic spine, lumbar spine, lumbosacral spine, lumbo sacral spine, "
    "dorsal spine, dorsolumbar spine, cervical, cervicales, cervicale, lumbar, lumbale, "
    "lumbosacral, lumbo sacral, thoracolumbar, vertebra, vertebrae, vertebral, scoliosis, "
    "scoliose, escoliosis, wirbelsäule, hws, bws, lws, halswirbelsäule, brustwirbelsäule, "
    "lendenwirbelsäule, kreuzbein, steißbein, rachis, rachis cervical, rachis dorsal, "
    "rachis lombaire, colonne, lombaire, columna, columna cervical, columna dorsal, "
    "columna lumbar, columna vertebral, colonna, rachide, coluna, coluna cervical, coluna lombar, "
    "wervelkolom, cwk, lwk, cwz, lwz, rygg, halsrygg, ländrygg, bröstrygg, позвоночник, "
    "позвоночника, шейный отдел, шейного отдела, грудной отдел, грудного отдела, "
    "поясничный отдел, поясничного отдела, поясничный, крестец, копчик, kręgosłup, kręgosłupa, "
    "páteř, chrbtica, omurga, sacrum, coccyx, sacro coccygeal, odontoid, σπονδυλική στήλη, 腰椎, "
    "頚椎, 頸椎, 颈椎, 胸椎, 脊柱, 脊椎, 척추, 요추, 경추",
    BodyPart.CHEST: "chest, thorax, cxr, portable chest, lung, lungs, thoracique, brustkorb, "
    "lunge, lungen, poumon, poumons, poitrine, tórax, torax, torace, pecho, peito, borst, "
    "грудная клетка, грудной клетки, органы грудной клетки, органов грудной клетки, огк, легкие, "
    "легких, klatka piersiowa, klatki piersiowej, hrudník, göğüs, akciğer, lungor, heart, "
    "cardiac, sternum, brustbein, esternón, sterno, mediastinum, esophagus, bronchus, "
    "chestabdomen, chest abdomen, chest and abdomen, chestabdpelvis, neckchest, neckchestabdomen, "
    "neckchestabdpelv, babygram, θώρακας, 胸部, 胸, 흉부",
    BodyPart.RIBS: "rib, ribs, ribcage, rib cage, rippe, rippen, hemithorax, gril costal, "
    "costillas, costilla, parrilla costal, coste, costelas, ribben, revben, ребра, ребер, ребро, "  # noqa: RUF001
    "żebra, žebra, 肋骨, 늑골",
    BodyPart.BREAST: "breast, breasts, mamma, mammae, mammo, mammography, mammografie, "
    "mammographie, mamografia, seins, mammella, mammelle, borsten, молочная железа, "
    "молочной железы, молочных желез, 乳房, 유방",
    BodyPart.ABDOMEN: "abdomen, abdominal, abd, kub, bauch, abdomenübersicht, asp, addome, "
    "abdome, buik, buk, живот, живота, брюшная полость, брюшной полости, обп, brzuch, "
    "jama brzuszna, břicho, karın, abdomenpelvis, abdomen pelvis, abdomen and pelvis, kidney, "  # noqa: RUF001
    "kidneys, bladder, colon, stomach, gallbladder, liver, urinary, urography, ivu, κοιλιά, 腹部, "
    "腹, 복부",
    BodyPart.WHOLE_BODY: "whole body, wholebody, whole skeleton, full body, entire body, "
    "ganzkörper, corps entier, cuerpo entero, corpo intero, skeletal survey, "
    "bone survey, 全身, 전신",
    BodyPart.PHANTOM: "phantom, phantoms, fantom, prüfkörper, fantôme, test pattern, testpattern, "
    "test image, flat field, flatfield, фантом",
}
"""What names a part wherever it stands: terms, abbreviations, words."""

_TAGS: Mapping[BodyPart, str] = {
    BodyPart.FINGER: "palec, dito",
    BodyPart.HAND: "main, hnd",
    BodyPart.WRIST: "handled, wri",
    BodyPart.ELBOW: "elb",
    BodyPart.HUMERUS: "arm, hum",
    BodyPart.SHOULDER: "sho, shld, axel",
    BodyPart.PELVIS: "pelv, pel",
    BodyPart.HIP: "coxa, coxae",
    BodyPart.FEMUR: "udo, uda",
    BodyPart.ANKLE: "ank",
    BodyPart.FOOT: "pie, pe, pes, ft",
    BodyPart.TOE: "teen",
    BodyPart.EXTREMITY: "ext",
    BodyPart.SKULL: "hd, skl",
    BodyPart.FACE: "face, eye, eyes, ear, gesicht, cara, faccia, viso",
    BodyPart.TEETH: "mouth",
    BodyPart.SPINE: "back, cs, ts, ls, dos",
    BodyPart.CHEST: "ch, thx, thoracic",
    BodyPart.BREAST: "mama, mamas, seno, sein",
    BodyPart.ABDOMEN: "ventre, pancreas, spleen, ureter, urethra, uterus, prostate, rectum",
    BodyPart.WHOLE_BODY: "body",
    BodyPart.PHANTOM: "pattern, test, qc, qa, calibration",
}
"""What names a part as the whole of BodyPartExamined, and means something else in a sentence."""

_IN_PASSING = "c arm, arm rest, head first, feet first, head up, head down, foot end, heart rate"
"""Words of a part that name none."""

_SIDES_AND_VIEWS = (
    "left right lt rt l r li re links rechts gauche droit droite g d izquierda izquierdo derecha "
    "derecho izq der sinistra sinistro destra destro sx dx esquerda esquerdo direita direito "
    "левый левая правый правая lewa prawa bilateral bilat bil both ap pa lat lateral obl oblique "
    "axial ax and joint joints bone bones view views 1 2 3 4 adult child ped paed pediatric"
)
"""What may stand beside a part in BodyPartExamined."""

_SEPARATORS = re.compile(r"[\W_]+")
_UMLAUTS = {ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue"}
_LONGEST_TEXT = 1024
_TAG_CHARACTERS = re.compile(r"[^\W_](?:[\w /&.,()+-]{0,62}[\w).])?")


def _normal(text: str) -> tuple[str, ...]:
    """Words without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", text[:_LONGEST_TEXT].casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return tuple(word for word in _SEPARATORS.split(plain) if word)


def spellings(text: str) -> set[tuple[str, ...]]:
    """The words of a text without case, accents and punctuation, umlauts also as in ``ue``."""
    composed = unicodedata.normalize("NFC", text.casefold())
    return {_normal(text), _normal(composed.translate(_UMLAUTS))}


def _spellings(terms: str) -> set[tuple[str, ...]]:
    """Those of all terms of a list."""
    return {spelling for term in terms.split(", ") for spelling in spellings(term)}


def _table(*lists: Mapping[BodyPart, str]) -> dict[tuple[str, ...], BodyPart | None]:
    """Spellings to parts; a later list overrides."""
    table: dict[tuple[str, ...], BodyPart | None] = dict.fromkeys(_spellings(_IN_PASSING))
    for terms_of in lists:
        for part, terms in terms_of.items():
            table |= dict.fromkeys(_spellings(terms), part)
    return table


_PART_OF_CODE = {code: part for part, codes in _CODES.items() for code in codes.split()}
_PART_IN_TEXT = _table(_WORDS)
_PART_OF_TAG = _table(_WORDS, _TAGS)
_BESIDE = frozenset(_normal(_SIDES_AND_VIEWS))
_LONGEST = max(map(len, _PART_OF_TAG))


def part_of_code(value: str | None, scheme: str | None) -> BodyPart | None:
    """Look up a code of an anatomic region (PS3.3 10.5.1.1, Anatomic Region Sequence).

    Args:
        value: Code value.
        scheme: Coding scheme designator; of SNOMED there are four (PS3.16 8.1).

    Returns:
        The part; ``None`` where the code is none of a known part.
    """
    if scheme not in ("SCT", "SRT", "SNM3", "99SDM"):
        return None
    return _PART_OF_CODE.get(value or "")


def part_of_tag(tagged: str | None) -> BodyPart | None:
    """The part that a value of BodyPartExamined names; ``None`` for none, or several."""
    words = _normal(tagged or "")
    if words in _PART_OF_TAG:
        return _PART_OF_TAG[words]
    found, strange = _search([word for word in words if word not in _BESIDE], _PART_OF_TAG)
    return _common(found) if not strange else part_in_text(tagged)


def part_in_text(text: str | None) -> BodyPart | None:
    """The part that a text names, in any of its words.

    Parts of one limb together are that limb: hand and wrist are the upper limb.

    Returns:
        The part; ``None`` where the text names none, or several that have nothing in common.
    """
    return _common(_search(_normal(text or ""), _PART_IN_TEXT)[0])


def is_term(tagged: str | None) -> bool:
    """Whether a value of BodyPartExamined is a known term throughout, besides side and view.

    Such a value can be passed on: no name can stand in it.
    """
    words = _normal(tagged or "")
    if not words or not _TAG_CHARACTERS.fullmatch(tagged or ""):
        return False
    if words in _PART_OF_TAG:
        return True
    found, strange = _search([word for word in words if word not in _BESIDE], _PART_OF_TAG)
    return bool(found) and not strange


def resolve(
    codes: Iterable[tuple[str | None, str | None]],
    tagged: str | None,
    texts: Mapping[str, str | None],
) -> tuple[BodyPart | None, str | None]:
    """Decide on the body part by ranked evidence.

    A code comes before BodyPartExamined, and that before the texts in their order. A generic term
    yields to a part of what it stands for. Tags are often wrong, and a wrong one must not keep a
    limb from being scored: where the best evidence says that it is none and another names a limb,
    nothing is decided.

    Args:
        codes: Value and scheme of each item of AnatomicRegionSequence.
        tagged: BodyPartExamined.
        texts: Descriptions by keyword, the most telling first.

    Returns:
        The part and the keyword of the element that named it; both ``None`` where none is known.
    """
    ranked = [(part_of_code(*code), "AnatomicRegionSequence") for code in codes]
    ranked.append((part_of_tag(tagged), "BodyPartExamined"))
    ranked += [(part_in_text(text), keyword) for keyword, text in texts.items()]
    evidence = [(part, source) for part, source in ranked if part is not None]
    if not evidence:
        return None, None
    best, best_source = evidence[0]
    if best not in LIMBS and any(part in LIMBS for part, _ in evidence):
        return None, None
    for part, source in evidence[1:]:
        if part in _GENERIC.get(best, ()):
            best, best_source = part, source
    return best, best_source


def _search(
    words: Sequence[str], table: Mapping[tuple[str, ...], BodyPart | None]
) -> tuple[set[BodyPart], bool]:
    """Find the parts that words name, the longest term first; and whether other words are left."""
    found: set[BodyPart] = set()
    strange = False
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            term = tuple(words[at : at + length])
            if term in table:
                part = table[term]
                if part is not None:
                    found.add(part)
                at += length
                break
        else:
            strange = True
            at += 1
    return found, strange


def _common(parts: set[BodyPart]) -> BodyPart | None:
    """The one part that is meant, or the narrowest generic term for several."""
    specific = {
        part for part in parts if not any(other in _GENERIC.get(part, ()) for other in parts)
    }
    if len(specific) == 1:
        return next(iter(specific))
    for generic, members in _GENERIC.items():
        if specific and specific <= members:
            return generic
    return None
