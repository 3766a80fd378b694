/** Paths of single files. */

/** A path that no other file has: the name, else `2/name`, `3/name` and so on. */
export function distinct(name: string, taken: { has(path: string): boolean }): string {
  let path = name;
  for (let number = 2; taken.has(path); number++) path = `${number}/${name}`;
  return path;
}
