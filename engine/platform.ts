/** Whether this is Node, or something else with its modules. False where the package is bundled for pages: what stands behind it is dropped there. */
export const inNode: boolean = typeof process === 'object' && !!process.versions?.node
