"""PNGs with the metadata texts of other programs, written through Pillow, which most of them use.

Run: python tools/goldens/texts.py --out tests/goldens/texts      (pip install pillow==13.0.0 piexif==1.1.3)
The texts themselves are invented; the keys and formats are those of each program.
"""

import argparse
import json
from pathlib import Path

import piexif
import piexif.helper
from PIL import Image
from PIL.PngImagePlugin import PngInfo

A1111 = "a café fox, 狐\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 4x4"
GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286, "steps": 9, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            "model": ["11", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
    },
    "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox, 狐", "clip": ["12", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["12", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["13", 0]}, "is_changed": [float("nan")]},
    "11": {"class_type": "UNETLoader", "inputs": {"unet_name": "z_image_turbo_bf16.safetensors", "weight_dtype": "default"}},
    "12": {"class_type": "CLIPLoader", "inputs": {"clip_name": "qwen_3_4b.safetensors"}},
}
ADVANCED = {
    "10": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {"noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0], "sigmas": ["17", 0], "latent_image": ["5", 0]},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
    "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
    "17": {"class_type": "BasicScheduler", "inputs": {"scheduler": "sgm_uniform", "steps": 12, "model": ["30", 0]}},
    "22": {"class_type": "CFGGuider", "inputs": {"cfg": 3.5, "positive": ["40", 0], "negative": ["40", 1], "model": ["30", 0]}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 77}},
    "30": {"class_type": "UNETLoader", "inputs": {"unet_name": "some.safetensors"}},
    "40": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["41", 0], "negative": ["42", 0]}},
    "41": {"class_type": "CLIPTextEncode", "inputs": {"text": ["50", 0]}},
    "42": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly"}},
    "50": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a blue bird"}},
}
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"><dc:description><rdf:Alt>
<rdf:li xml:lang="x-default">a fox &amp; a hen</rdf:li></rdf:Alt></dc:description><xmp:CreatorTool>Draw Things</xmp:CreatorTool>
<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">%s</rdf:li></rdf:Alt></exif:UserComment>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def texts(pairs, compressed=False, international=False):
    info = PngInfo()
    for key, text in pairs.items():
        if international:
            info.add_itxt(key, text, lang="de", tkey="Schlüssel", zip=compressed)
        else:
            info.add_text(key, text, zip=compressed)
    return {"pnginfo": info}


def raw(kind, data):
    info = PngInfo()
    info.add(kind, data)
    return {"pnginfo": info}


def exif(comment):
    return {"exif": piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})}


def unicode_comment(text):
    return piexif.helper.UserComment.dump(text, encoding="unicode")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("tests/goldens/texts"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    novel = {"steps": 28, "sampler": "k_euler", "seed": 9, "scale": 5.0, "uc": "lowres"}
    swarm = {"sui_image_params": {"prompt": "a red fox", "negativeprompt": "blurry", "model": "Z-Image", "seed": 3, "steps": 8, "cfgscale": 1.0}}
    fooocus = {"prompt": "a red fox", "negative_prompt": "", "full_prompt": ["a red fox", "cinematic"], "steps": 30, "seed": "7", "version": "Fooocus v2.5.5"}
    invoke = {"positive_prompt": "a red fox", "negative_prompt": "blurry", "seed": 4, "steps": 8, "cfg_scale": 1, "model": {"name": "Z-Image Turbo", "hash": "x"}}
    invoke_two = {"app_version": "2.3.5", "model_weights": "sd-1.5", "image": {"prompt": [{"prompt": "a red fox [blurry]", "weight": 1}], "steps": 50, "seed": 8}}
    draw_things = {"c": "a fox & a hen", "uc": "blurry", "seed": 6, "steps": 8, "sampler": "Euler A Trailing", "v2": {"x": 1}}
    mflux = {"mflux_version": "0.11.1", "prompt": "a red fox", "seed": 2, "steps": 9, "model": "z-image-turbo"}
    files = {
        "a1111_itxt": texts({"parameters": A1111}),
        "a1111_latin1": texts({"parameters": A1111.replace("狐", "Ã")}),
        "a1111_utf8_in_text": raw(b"tEXt", b"parameters\0" + A1111.encode()),
        "a1111_utf8_in_ztxt": texts({"parameters": A1111.encode().decode("latin-1")}, compressed=True),
        "a1111_itxt_compressed": texts({"parameters": A1111}, compressed=True, international=True),
        "a1111_exif_unicode": exif(unicode_comment(A1111)),
        "a1111_exif_little": exif(b"UNICODE\0" + A1111.encode("utf-16-le")),
        "a1111_exif_ascii": exif(b"ASCII\0\0\0" + A1111.encode()),
        "comfyui": texts({"prompt": json.dumps(GRAPH), "workflow": json.dumps({"nodes": []})}),
        "comfyui_advanced": texts({"prompt": json.dumps(ADVANCED)}),
        "comfyui_workflow": texts({"workflow": json.dumps({"nodes": [{"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a red fox"]}]})}),
        "invokeai": texts({"invokeai_metadata": json.dumps(invoke), "invokeai_graph": "{}"}),
        "invokeai_two": texts({"sd-metadata": json.dumps(invoke_two), "Dream": '"a red fox" -s 50'}),
        "invokeai_dream": texts({"Dream": '"a red fox" -s 50 -S 8 -W512'}),
        "novelai": texts({"Title": "AI generated image", "Description": "a red fox", "Software": "NovelAI", "Source": "NAI 4", "Comment": json.dumps(novel)}),
        "swarmui": texts({"parameters": json.dumps(swarm, indent=2)}),
        "fooocus": texts({"parameters": json.dumps(fooocus), "fooocus_scheme": "fooocus"}),
        "draw_things": texts({"XML:com.adobe.xmp": XMP % escaped(json.dumps(draw_things))}, international=True),
        "mflux": exif(b"UNICODE\0" + json.dumps(mflux).encode("utf-16-be")),
        "separate_keys": texts({"prompt": "a red fox", "negative_prompt": "blurry", "seed": "5", "num_inference_steps": "25"}),
        "midjourney": texts({"Description": "a red fox --v 7 Job ID: 0", "Author": "somebody"}),
        "nothing": texts({"Software": "GIMP", "Creation Time": "now"}),
    }
    for name, how in files.items():
        Image.new("RGB", (4, 4), (200, 80, 10)).save(out / f"{name}.png", **how)


if __name__ == "__main__":
    main()
