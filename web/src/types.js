/**
 * What the module's functions take and return. The worker and the page share these types, and embedders see them.
 */
/** Everything that goes wrong: the message is one sentence for the person who asked. */
export class ZImageError extends Error {
    kind;
    reason;
    name = "ZImageError";
    /**
     * @param reason of a device error: `lost` when the device has gone and a new engine is needed, `memory` when its memory
     *   did not suffice.
     */
    constructor(message, kind, reason) {
        super(message);
        this.kind = kind;
        this.reason = reason;
    }
}
