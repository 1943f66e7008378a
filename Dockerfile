# The web page, or the HTTP API, in a container:
#   docker build -t visualglm .
#   docker run -p 127.0.0.1:8080:8080 visualglm
#   docker run -p 127.0.0.1:8080:8080 visualglm api.py --from_pretrained visualglm-tiny
#   docker run -it --entrypoint visualglm visualglm chat --from_pretrained visualglm-tiny
# With a GPU and the published model, which is kept in a volume, for all who can reach this machine and have the key:
#   docker run --gpus all -p 8080:8080 -v visualglm:/data -e VISUALGLM_API_KEY visualglm api.py --from_pretrained visualglm-6b
# pip's PyTorch includes CUDA. For a smaller image without CUDA, give the index of PyTorch's CPU builds:
#   docker build --build-arg TORCH_INDEX=<URL> -t visualglm .
FROM python:3.12-slim

ARG TORCH_INDEX=""

WORKDIR /app
COPY requirements_wo_ds.txt requirements_web.txt constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch -c constraints.txt \
    && pip install --no-cache-dir -r requirements_wo_ds.txt -r requirements_web.txt -c constraints.txt \
    && pip install --no-cache-dir --no-deps SwissArmyTransformer gradio -c constraints.txt
COPY . .
# Editable, so that the scripts here and the program visualglm share one copy of the packages.
RUN pip install --no-cache-dir --no-deps --editable .
RUN useradd --create-home visualglm && mkdir /data && chown visualglm /data

USER visualglm
ENV HF_HOME=/data/hub SAT_HOME=/data/sat \
    GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=8080 VISUALGLM_HOST=0.0.0.0 VISUALGLM_PORT=8080
VOLUME /data
EXPOSE 8080
# The API's liveness route also answers while the model loads. The page has no such route: any answer below 500 counts.
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m CMD ["python", "-c", "import http.client, sys; \
server = http.client.HTTPConnection('127.0.0.1', 8080, timeout=5); server.request('GET', '/health'); \
sys.exit(server.getresponse().status >= 500)"]
ENTRYPOINT ["python"]
CMD ["web_demo.py", "--from_pretrained", "visualglm-tiny"]
