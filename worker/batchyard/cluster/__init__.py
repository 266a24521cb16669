"""Where jobs run: the Executor seam, on Ray and on plain processes. Import the module that you need."""
