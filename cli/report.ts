export const page = async (_: unknown): Promise<string> => ''
