/** What the page and the worker say to each other. One worker holds one engine and runs one job at a time. */
export {};
